//! Where the next page of a list begins: the last name of the page before, in hexadecimal. Opaque to callers, and it
//! outlives the node that gave it.

use super::validate::{Problem, Violation};

/// The token of a page that ends with `name`.
pub fn encode(name: &str) -> String {
    hex::encode(name)
}

/// The name that the page before ended with; none for the first page, whose token is empty.
pub fn decode(token: &str) -> Result<Option<String>, Violation> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = hex::decode(token).ok();
    match bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(name) => Ok(Some(name)),
        None => Err(Violation::of("page_token", Problem::Invalid("a next_page_token"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_nonsense_is_refused() {
        for name in ["a", "acme/room-42", "ü"] {
            assert_eq!(decode(&encode(name)).unwrap().as_deref(), Some(name));
        }
        assert_eq!(decode("").unwrap(), None);
        for nonsense in ["x", "6", "zz", "ff"] {
            assert_eq!(decode(nonsense).unwrap_err().field, "page_token");
        }
    }
}
