//! Sizes, times, flags and the other values of the language, as nginx reads them.

use super::diag::{ConfError, ConfResult};
use super::parser::Directive;
use std::time::Duration;

/// The operating system's words with its number, as nginx prints them: `2: No such file or directory`.
pub fn os_error(e: &std::io::Error) -> String {
    match e.raw_os_error() {
        Some(code) => {
            let text = e.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            format!("{code}: {text}")
        }
        None => e.to_string(),
    }
}

/// Bytes: digits with an optional `k` or `m` (ngx_parse_size), or `g` where nginx takes offsets.
pub fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    number(digits)?.checked_mul(unit).filter(|&n| n <= i64::MAX as u64)
}

/// A whole number of digits only; signs and blanks are not numbers here.
pub fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A time: units `y M w d h m s ms` from large to small, each once, blanks between them allowed;
/// a bare number is seconds (ngx_parse_time).
pub fn time(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 8] = [
        ("y", 365 * 86_400_000),
        ("M", 30 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut rest = text.trim_start_matches(' ');
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let n = number(&rest[..digits])?;
        rest = &rest[digits..];
        let (name, scale, index) = if rest.is_empty() || rest.starts_with(' ') {
            ("", 1_000, UNITS.len())
        } else {
            let index = if rest.starts_with("ms") {
                7
            } else {
                UNITS.iter().position(|(name, _)| rest.starts_with(name))?
            };
            (UNITS[index].0, UNITS[index].1, index)
        };
        if index < next_unit || (name.is_empty() && next_unit > 6) {
            return None;
        }
        next_unit = index + 1;
        rest = rest[name.len()..].trim_start_matches(' ');
        total = total.checked_add(n.checked_mul(scale)?)?;
    }
    (total <= i64::MAX as u64).then(|| Duration::from_millis(total))
}

/// A time in whole seconds: as [`time`], without milliseconds.
pub fn seconds(text: &str) -> Option<Duration> {
    time(text).filter(|_| !text.contains("ms"))
}

/// `name=value` split, when `arg` begins so.
pub fn parameter<'a>(arg: &'a str, name: &str) -> Option<&'a str> {
    arg.strip_prefix(name)?.strip_prefix('=')
}

/// The error nginx gives for a value that cannot be read.
pub fn invalid_value() -> ConfError {
    ConfError::new("\"{}\" directive invalid value")
}

/// The error nginx gives for a parameter it does not know.
pub fn invalid_parameter(arg: &str) -> ConfError {
    ConfError::new(format!("invalid parameter \"{arg}\""))
}

/// The first argument as `on` or `off`.
pub fn flag(d: &Directive) -> ConfResult<bool> {
    if d.arg(0).eq_ignore_ascii_case("on") {
        Ok(true)
    } else if d.arg(0).eq_ignore_ascii_case("off") {
        Ok(false)
    } else {
        Err(ConfError::new(format!(
            "invalid value \"{}\" in \"{}\" directive, it must be \"on\" or \"off\"",
            d.arg(0),
            d.name
        )))
    }
}

/// The `n`th argument as a size in bytes.
pub fn size_arg(d: &Directive, n: usize) -> ConfResult<u64> {
    size(d.arg(n))
        .ok_or_else(|| invalid_value().hint("a size is digits with an optional k, m or g, as in 16k"))
}

/// Two arguments as a number of buffers and their size, neither of them 0.
pub fn buffers_arg(d: &Directive) -> ConfResult<(u64, u64)> {
    let (count, bytes) = (number(d.arg(0)), size(d.arg(1)));
    count.filter(|n| *n > 0).zip(bytes.filter(|n| *n > 0)).ok_or_else(invalid_value)
}

/// The `n`th argument as a time.
pub fn time_arg(d: &Directive, n: usize) -> ConfResult<Duration> {
    time(d.arg(n))
        .ok_or_else(|| invalid_value().hint("a time is digits with units, as in 30s, 500ms or 1h 30m"))
}

/// The `n`th argument as a whole number.
pub fn number_arg(d: &Directive, n: usize) -> ConfResult<u64> {
    number(d.arg(n)).ok_or_else(|| ConfError::new("\"{}\" directive invalid number"))
}

/// Checks the size of one of nginx's tables, of which we have none; one of nothing cannot be built.
pub fn table_size(d: &Directive) -> ConfResult<()> {
    if number_arg(d, 0)? > 0 {
        return Ok(());
    }
    let table = d.name.trim_end_matches("_max_size").trim_end_matches("_bucket_size");
    Err(ConfError::new(format!("could not build {table}, you should increase {}: 0", d.name)))
}

/// The first argument as one of `choices`.
pub fn one_of<T: Copy>(d: &Directive, choices: &[(&str, T)]) -> ConfResult<T> {
    choices.iter().find(|(name, _)| d.arg(0).eq_ignore_ascii_case(name)).map(|(_, value)| *value).ok_or_else(
        || {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            ConfError::new(format!("invalid value \"{}\"", d.arg(0)))
                .hint(format!("one of: {}", names.join(", ")))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_nginx_reads_them() {
        assert_eq!(size("10"), Some(10));
        assert_eq!(size("10k"), Some(10_240));
        assert_eq!(size("2G"), Some(2 << 30));
        for bad in ["", "k", "-1", "1.5m", "1kb", "99999999999999999999"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_as_nginx_reads_them() {
        let ms = |text| time(text).map(|d| d.as_millis());
        assert_eq!(ms("10"), Some(10_000));
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("1h 30m"), Some(5_400_000));
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("1d 1"), Some(86_401_000));
        assert_eq!(ms("1M"), Some(30 * 86_400_000));
        for bad in ["", "s", "1s1m", "1x", "1m1m", "-1", "1 1"] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn values_never_panic(text in ".{0,40}") {
            let _ = (size(&text), time(&text), number(&text));
        }
    }
}
