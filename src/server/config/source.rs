//! A TOML document with environment variables laid over it, which remembers where each key came from.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use crate::types::printable;

const PREFIX: &str = "QUORATE_";
/// Between a table and a key: one underscore is part of most keys.
const NESTING: &str = "__";
/// What the command line reads from the environment is not configuration.
const COMMAND_LINE: [&str; 6] = [
    "QUORATE_CONFIG",
    "QUORATE_ENDPOINTS",
    "QUORATE_OUTPUT",
    "QUORATE_CA_FILE",
    "QUORATE_CERT_FILE",
    "QUORATE_KEY_FILE",
];

/// The document. Spans up to the text's length are places in the file; the one at `length + n` stands for the n-th
/// variable (from 1), so that an error of the deserializer leads to a variable in the same way.
pub(super) struct Source<'t> {
    path: Option<&'t Path>,
    text: &'t str,
    table: Spanned<DeTable<'t>>,
    variables: &'t [(String, String)],
}

/// The text of the file; nothing if there is none.
pub(super) fn read(path: Option<&Path>) -> Result<String, ConfigError> {
    path.map_or_else(|| Ok(String::new()), std::fs::read_to_string)
        .map_err(|source| ConfigError::Read { path: path.unwrap_or(Path::new("")).into(), source })
}

/// Those of the variables that are meant for the configuration, in order of name. Kubernetes sets
/// `QUORATE_…_SERVICE_HOST`, `QUORATE_PORT_…` and the like in every container beside a service of our name; no key
/// of ours looks like those.
pub(super) fn overrides(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Vec<(String, String)> {
    let is_override = |name: &str| {
        name.starts_with(PREFIX)
            && !COMMAND_LINE.contains(&name)
            && !name.contains("_PORT")
            && !name.contains("_SERVICE_")
    };
    let mut found: Vec<_> = variables.into_iter().filter(|(name, _)| is_override(name)).collect();
    found.sort();
    found
}

impl<'t> Source<'t> {
    /// Parses the file's text and sets the keys that the variables name.
    pub(super) fn parse(
        path: Option<&'t Path>,
        text: &'t str,
        variables: &'t [(String, String)],
    ) -> Result<Source<'t>, ConfigError> {
        let table = Spanned::new(0..0, DeTable::new());
        let mut source = Source { path, text, table, variables };
        source.table = DeTable::parse(text).map_err(|error| source.located(&error))?;
        for (position, (name, value)) in variables.iter().enumerate() {
            let at = text.len() + 1 + position;
            let path = name[PREFIX.len()..].to_lowercase();
            let segments: Vec<&str> = path.split(NESTING).collect();
            if !set(source.table.get_mut(), &segments, variable_value(value), at..at) {
                let reason = "part of this key is a value, not a table";
                return Err(source.invalid_at(at, path.replace(NESTING, "."), reason.into()));
            }
        }
        Ok(source)
    }

    pub(super) fn deserialize<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let deserializer = toml::de::Deserializer::from(self.table.clone());
        T::deserialize(deserializer).map_err(|error| self.located(&error))
    }

    /// An error about a key, placed where the key is set; where it is left out, at its table, or else in the file as a
    /// whole.
    pub(super) fn invalid(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        match self.places(key).last() {
            Some(at) => self.invalid_at(*at, key.to_owned(), reason.into()),
            None => refusal(self.whole(), key.to_owned(), reason.into()),
        }
    }

    /// Whether of two keys that do not go together only the second is set: then it is the one to blame.
    pub(super) fn sets_only_second(&self, first: &str, second: &str) -> bool {
        self.sets(second) && !self.sets(first)
    }

    /// Whether a key is set.
    pub(super) fn sets(&self, key: &str) -> bool {
        self.places(key).len() == key.split('.').count()
    }

    /// Where a key's tables and at last the key itself are set, as far as they are.
    fn places(&self, key: &str) -> Vec<usize> {
        let mut table = Some(self.table.get_ref());
        let place = |segment| {
            let (key, value) = table?.get_key_value(segment)?;
            table = value.get_ref().as_table();
            match value.span() {
                span if span.start > self.text.len() => Some(span.start),
                _ => Some(key.span().start),
            }
        };
        key.split('.').map_while(place).collect()
    }

    /// The same from an error of the parser or deserializer, which knows the span and not always the key.
    fn located(&self, error: &toml::de::Error) -> ConfigError {
        let reason = error.message().replace('\n', "; ");
        match error.span().filter(|span| !span.is_empty() || span.start > 0) {
            Some(span) => {
                match key_at(self.table.get_ref(), &span) {
                    Some(key) => self.invalid_at(span.start, key, reason),
                    // Not TOML, so there are no keys yet: the line says which was meant.
                    None => {
                        let reason = format!("{reason}: `{}`", self.line_at(span.start));
                        self.invalid_at(span.start, String::new(), reason)
                    }
                }
            }
            None => refusal(self.whole(), String::new(), reason),
        }
    }

    fn invalid_at(&self, at: usize, key: String, reason: String) -> ConfigError {
        let place = match at.checked_sub(self.text.len() + 1) {
            Some(variable) => format!("environment variable {}", self.variables[variable].0),
            None => format!("{} line {}", self.whole(), self.line_number(at)),
        };
        refusal(place, key, reason)
    }

    fn line_at(&self, at: usize) -> &str {
        self.text.lines().nth(self.line_number(at) - 1).unwrap_or_default().trim()
    }

    /// From 1.
    fn line_number(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }

    fn whole(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => "the environment (no configuration file is given)".to_owned(),
        }
    }
}

/// One line: what is quoted from the file may have line feeds, or drive a terminal.
fn refusal(place: String, key: String, reason: String) -> ConfigError {
    let (place, key, reason) = (printable(&place), printable(&key), printable(&reason));
    ConfigError::Invalid { place, key, reason }
}

/// A TOML integer, boolean or quoted string is taken as that, anything else as a string.
fn variable_value(text: &str) -> DeValue<'_> {
    match DeValue::parse(text).map(Spanned::into_inner) {
        Ok(value) if value.is_integer() || value.is_bool() || value.is_str() => value,
        _ => DeValue::String(Cow::Borrowed(text)),
    }
}

/// False if something on the way is not a table.
fn set<'t>(table: &mut DeTable<'t>, path: &[&str], value: DeValue<'t>, span: Range<usize>) -> bool {
    let key = || Spanned::new(span.clone(), Cow::Owned(path[0].to_owned()));
    if path.len() == 1 {
        table.remove(path[0]);
        table.insert(key(), Spanned::new(span, value));
        return true;
    }
    let inner = table
        .entry(key())
        .or_insert_with(|| Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
    match inner.get_mut() {
        DeValue::Table(inner) => set(inner, &path[1..], value, span),
        _ => false,
    }
}

/// The dotted key whose name or value holds the span.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let holds = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    for (key, value) in table {
        let name = key.get_ref();
        if let Some(inner) = value.get_ref().as_table().and_then(|table| key_at(table, span)) {
            return Some(format!("{name}.{inner}"));
        }
        if holds(key.span()) || holds(value.span()) {
            return Some(name.to_string());
        }
    }
    None
}
