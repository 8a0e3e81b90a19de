//! The verdict on a stored run, by what was written down alone.

use std::path::Path;

use serde::Serialize;

use crate::check::{CHECKERS, Findings, Guarantee, vacuity};
use crate::model::{LoadError, Model};

/// What is known of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Validity {
    /// Every guarantee that was looked at held.
    Valid,
    /// One did not.
    Invalid,
    /// The run proves nothing.
    Unknown,
}

impl Validity {
    /// What a program exits with that found this.
    pub fn exit_code(self) -> u8 {
        match self {
            Validity::Valid => 0,
            Validity::Invalid => 1,
            Validity::Unknown => 2,
        }
    }
}

/// The verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// In a word.
    pub validity: Validity,
    /// What each checker found.
    pub findings: Vec<(String, Findings)>,
    /// Why the run proves nothing.
    pub doubts: Vec<String>,
}

impl Verdict {
    /// The guarantees that were broken.
    pub fn broken(&self) -> Vec<Guarantee> {
        let kept = self.findings.iter().flat_map(|(_, findings)| &findings.kept);
        let mut broken: Vec<Guarantee> = kept.map(|violation| violation.guarantee).collect();
        broken.sort_unstable();
        broken.dedup();
        broken
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (checker, findings) in self.findings.iter().filter(|(_, f)| f.violations > 0) {
            text.push_str(&format!("{checker}: {} violations\n", findings.violations));
            for violation in findings.kept.iter().take(3) {
                text.push_str(&format!("  {:?}: {}\n", violation.guarantee, violation.what));
                for evidence in violation.evidence.iter().take(4) {
                    text.push_str(&format!("    line {}: {}\n", evidence.line, evidence.shows));
                }
            }
        }
        for doubt in &self.doubts {
            text.push_str(&format!("doubt: {doubt}\n"));
        }
        text.push_str(match self.validity {
            Validity::Valid => "valid",
            Validity::Invalid => "invalid",
            Validity::Unknown => "unknown",
        });
        text
    }
}

/// Judges the run in a folder.
///
/// # Errors
///
/// If it cannot be read.
pub fn judge(dir: &Path) -> Result<Verdict, LoadError> {
    let model = Model::load(dir)?;
    let one = |checker: &&dyn crate::check::Checker| {
        let mut findings = Findings::default();
        checker.check(&model, &mut findings);
        (checker.name().to_owned(), findings)
    };
    let findings: Vec<(String, Findings)> = CHECKERS.iter().map(one).collect();
    let doubts = vacuity::doubts(&model);
    let validity = match findings.iter().any(|(_, findings)| findings.violations > 0) {
        true => Validity::Invalid,
        false if doubts.is_empty() => Validity::Valid,
        false => Validity::Unknown,
    };
    Ok(Verdict { validity, findings, doubts })
}
