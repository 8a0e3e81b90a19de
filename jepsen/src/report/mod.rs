//! Pages for people: one of each run, and one of all runs. Each is one file that needs nothing else.

pub mod index;
pub mod page;
mod plot;
mod series;
pub mod summary;

use std::fmt::Write;

pub use series::quantile;

/// Both pages look alike.
const STYLE: &str = include_str!("style.css");

/// Text as it may stand in HTML, between quotes too. Everything that comes from outside goes through here.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Nothing else but line feeds may be in a page that is not text.
            c if c.is_control() && c != '\n' => {
                write!(escaped, "\u{fffd}").expect("a string takes everything");
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// A whole document.
fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n<main>\n{body}</main>\n</html>\n",
        escape(title)
    )
}

/// A whole number with thousands set apart.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Nanoseconds as seconds, to the millisecond.
fn seconds(nanos: u64) -> String {
    format!("{:.3}", nanos as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::{escape, thousands};

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let text = "<script>alert(\"a\" & 'b')</script>\u{0}";
        let safe = "&lt;script&gt;alert(&quot;a&quot; &amp; &#39;b&#39;)&lt;/script&gt;\u{fffd}";
        assert_eq!(escape(text), safe);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
