//! As much of EDN as the exports need.

use std::fmt::Write;

/// A string with its quotes.
pub fn string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                write!(quoted, "\\u{:04x}", u32::from(c)).expect("a string takes everything");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A vector.
pub fn vector(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::{string, vector};

    #[test]
    fn what_comes_from_outside_stays_within_its_quotes() {
        assert_eq!(string("a/\"b\"\\\n\u{1}é"), r#""a/\"b\"\\\n\u0001é""#);
        assert_eq!(vector([string("k"), "1".to_owned()]), r#"["k" 1]"#);
        assert_eq!(vector([]), "[]");
    }
}
