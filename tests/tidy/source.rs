//! The files of the repository, and their code without comments and strings.

use std::path::{Path, PathBuf};

/// Not ours or made by tools; relative to the root.
const SKIPPED: [&str; 6] = [".git", "target", "data", "runs", "fuzz/artifacts", "fuzz/corpus"];

/// A file of the repository.
pub struct Source {
    /// Relative to the root, with forward slashes.
    pub path: String,
    /// As it stands.
    pub text: String,
}

impl Source {
    /// Whether the file lies in one of these folders, or is one of these files.
    pub fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            let rest = self.path.strip_prefix(place);
            rest.is_some_and(|rest| {
                rest.is_empty() || place.ends_with('/') || rest.starts_with('/')
            })
        })
    }

    /// Lines of code with their numbers, comments and the contents of strings left out.
    pub fn code(&self) -> Vec<(usize, String)> {
        let code = without_comments_and_strings(&self.text);
        code.lines().enumerate().map(|(number, line)| (number + 1, line.to_owned())).collect()
    }
}

/// All text files whose name ends like this.
pub fn files(ending: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the repository can be read") {
            let entry = entry.expect("the repository can be read");
            let kind = entry.file_type().expect("the repository can be read");
            let path = relative(root, &entry.path());
            if SKIPPED.contains(&path.as_str()) {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && path.ends_with(ending) {
                found.extend(read(entry.path(), path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "there is no *{ending}: a law without subjects proves nothing");
    found
}

fn relative(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).expect("it lies below the root");
    relative.to_string_lossy().replace('\\', "/")
}

fn read(file: PathBuf, path: String) -> Option<Source> {
    let text = String::from_utf8(std::fs::read(file).expect("the file can be read")).ok()?;
    Some(Source { path, text })
}

/// The same lines, with blanks for comments and for what stands in quotes.
pub fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = comment(rest).or_else(|| string(rest)).or_else(|| character(rest));
        match skipped {
            Some(length) => {
                code.extend(rest[..length].chars().filter(|c| *c == '\n'));
                rest = &rest[length..];
            }
            None => {
                code.push(first);
                rest = &rest[first.len_utf8()..];
                // The rest of a word cannot begin a raw string: `for"` is no `r"`.
                if first.is_alphanumeric() || first == '_' {
                    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                    let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
                    code.push_str(word);
                    rest = after;
                }
            }
        }
    }
    code
}

/// Length of the comment that `text` begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    text.starts_with("/*").then(|| text.find("*/").map_or(text.len(), |end| end + 2))
}

/// Length of the string literal, plain or raw, that `text` begins with.
fn string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        let rest = text.strip_prefix(prefix).unwrap_or("x");
        rest.starts_with('"')
            || (prefix.ends_with('r') && rest.trim_start_matches('#').starts_with('"'))
    })?;
    let body = &text[prefix.len()..];
    let hashes = body.len() - body.trim_start_matches('#').len();
    if prefix.ends_with('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        let start = prefix.len() + hashes + 1;
        return Some(text[start..].find(&close).map_or(text.len(), |at| start + at + close.len()));
    }
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(prefix.len() + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// Length of the character literal that `text` begins with; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let escape = usize::from(body.starts_with('\\'));
    let first = body[escape..].chars().next()?;
    let end = 1 + escape + first.len_utf8();
    match body.starts_with('\\') {
        true => text[end..].find('\'').map(|at| end + at + 1),
        false => text[end..].starts_with('\'').then_some(end + 1),
    }
}
