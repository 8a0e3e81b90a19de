/// One line without control characters: what others wrote must not command the terminal that shows it.
pub fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

#[test]
fn what_others_wrote_stays_on_its_line() {
    assert_eq!(printable("a\nb\u{1b}[2J ü"), "a\\nb\\u{1b}[2J ü");
}
