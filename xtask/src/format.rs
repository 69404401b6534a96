//! Numbers for people.

use std::time::Duration;

/// A measured value with about five significant digits.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "n/a".to_owned()
    } else if size == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e7).contains(&size) {
        format!("{value:.3e}")
    } else if size >= 1e4 {
        count(value.round())
    } else {
        let decimals = match size {
            s if s >= 1000.0 => 1,
            s if s >= 100.0 => 2,
            s if s >= 10.0 => 3,
            _ => 4,
        };
        format!("{value:.decimals$}")
    }
}

/// An error measure: two significant digits.
pub fn error(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        v if v.is_finite() => format!("{v:.1e}"),
        v => v.to_string(),
    }
}

/// A whole number with separators: `1,204,997`.
pub fn count(value: impl Into<f64>) -> String {
    let value: f64 = value.into();
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    match value < 0.0 && digits != "0" {
        true => format!("-{out}"),
        false => out,
    }
}

/// A count of things in memory or on disk: `1,204,997`.
pub fn whole(value: usize) -> String {
    count(value as f64)
}

/// Bytes in binary units: `312 MiB`.
pub fn bytes(value: u64) -> String {
    let value = value as f64;
    let (unit, name) = match value {
        v if v >= 1024.0 * 1024.0 * 1024.0 => (1024.0 * 1024.0 * 1024.0, "GiB"),
        v if v >= 1024.0 * 1024.0 => (1024.0 * 1024.0, "MiB"),
        v if v >= 1024.0 => (1024.0, "KiB"),
        _ => return format!("{value:.0} bytes"),
    };
    let scaled = value / unit;
    match scaled < 10.0 {
        true => format!("{scaled:.1} {name}"),
        false => format!("{scaled:.0} {name}"),
    }
}

/// Bytes, or `n/a` where the system does not tell.
pub fn memory(value: Option<u64>) -> String {
    value.map_or("n/a".to_owned(), bytes)
}

/// A duration: `3.2 s`, `4 min 05 s`, `2 h 10 min`.
pub fn duration(value: Duration) -> String {
    let seconds = value.as_secs();
    if seconds < 60 {
        format!("{:.1} s", value.as_secs_f64())
    } else if seconds < 3600 {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    } else {
        format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60)
    }
}

/// A duration given in seconds.
pub fn seconds(value: f64) -> String {
    Duration::try_from_secs_f64(value).map_or("n/a".to_owned(), duration)
}

/// One word of a command line, quoted where a shell needs it.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_their_digits() {
        for (value, text) in [
            (2.94561, "2.9456"),
            (45.6789, "45.679"),
            (123456.7, "123,457"),
            (3e-7, "3.000e-7"),
            (0.0, "0"),
            (f64::NAN, "n/a"),
            (-1234.56, "-1234.6"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(count(1_204_997.0), "1,204,997");
        assert_eq!(count(-12.0), "-12");
        assert_eq!(count(100.0), "100");
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(bytes(900), "900 bytes");
        assert_eq!(bytes(327_155_712), "312 MiB");
        assert_eq!(bytes(1_610_612_736), "1.5 GiB");
        assert_eq!(duration(Duration::from_millis(3200)), "3.2 s");
        assert_eq!(duration(Duration::from_secs(245)), "4 min 05 s");
        assert_eq!(duration(Duration::from_secs(7800)), "2 h 10 min");
        assert_eq!(seconds(f64::NAN), "n/a");
    }

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(shell_word("--set"), "--set");
        assert_eq!(shell_word("Call me"), "'Call me'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
