//! Key exchange groups by OpenSSL's names.

use rustls::NamedGroup;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::kx_group;

/// Groups, in order of preference.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// Those rustls has; none is the default choice.
    pub found: Vec<&'static dyn SupportedKxGroup>,
    /// Those it does not have, as written.
    pub absent: Vec<String>,
}

/// Reads a list such as `X25519:prime256v1`; `auto` is rustls's own choice. The error is the first
/// name that is no group at all.
pub fn parse(text: &str) -> Result<Groups, String> {
    let mut groups = Groups::default();
    if text == "auto" {
        return Ok(groups);
    }
    for word in text.split(':') {
        let plain = word.trim_start_matches(['?', '*']);
        match plain.to_ascii_lowercase().as_str() {
            "x25519" => groups.found.push(kx_group::X25519),
            "prime256v1" | "p-256" | "secp256r1" => groups.found.push(kx_group::SECP256R1),
            "secp384r1" | "p-384" => groups.found.push(kx_group::SECP384R1),
            "x25519mlkem768" => groups.found.push(kx_group::X25519MLKEM768),
            "secp256r1mlkem768" => groups.found.push(kx_group::SECP256R1MLKEM768),
            "secp521r1" | "p-521" | "x448" | "secp256k1" | "secp224r1" | "p-224" | "prime192v1" | "p-192"
            | "secp384r1mlkem1024" | "brainpoolp256r1" | "brainpoolp384r1" | "brainpoolp512r1" => {
                groups.absent.push(word.to_string());
            }
            name if name.starts_with("ffdhe") || name.starts_with("sect") => {
                groups.absent.push(word.to_string());
            }
            _ => return Err(word.to_string()),
        }
    }
    Ok(groups)
}

/// OpenSSL's name of a group, as `$ssl_curve` has it.
pub fn name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "prime256v1",
        NamedGroup::secp384r1 => "secp384r1",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        NamedGroup::secp256r1MLKEM768 => "SecP256r1MLKEM768",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_by_name() {
        let groups = parse("X25519:prime256v1:secp521r1").unwrap();
        let names: Vec<_> = groups.found.iter().map(|g| name(g.name())).collect();
        assert_eq!(names, ["X25519", "prime256v1"]);
        assert_eq!(groups.absent, ["secp521r1"]);
        assert!(parse("auto").unwrap().found.is_empty());
        assert_eq!(parse("X25519:foo").unwrap_err(), "foo");
    }
}
