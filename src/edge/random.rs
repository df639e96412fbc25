//! Random bytes for identifiers.

/// Sixteen random bytes.
pub fn bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            // The kernel has it since 3.17; without it an identifier is still needed, not a secret.
            Err(_) => {
                let now = crate::http::date::since_epoch().as_nanos();
                bytes.copy_from_slice(&now.to_ne_bytes());
                break;
            }
        }
    }
    bytes
}
