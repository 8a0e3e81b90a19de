//! From a run's record to its verdict: `results.json`, and everything that is made of a record for people and tools.

mod figures;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use figures::{Calls, Faults, Figures};

use crate::check::{CHECKERS, Findings, Guarantee, Violation, vacuity};
use crate::export;
use crate::history::Run;
use crate::model::{LoadError, Model};
use crate::report;

/// The verdict, in the directory of its run.
pub const RESULTS: &str = "results.json";

/// What a run proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Enough happened, and every promise that was looked at was kept.
    Valid,
    /// A promise was broken.
    Invalid,
    /// Neither: too little happened, or the record cannot be judged.
    Unknown,
}

impl Verdict {
    /// 0, 1 or 2.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Valid => 0,
            Verdict::Invalid => 1,
            Verdict::Unknown => 2,
        }
    }

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Valid => "valid",
            Verdict::Invalid => "invalid",
            Verdict::Unknown => "unknown",
        }
    }
}

/// What became of one guarantee.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Which.
    pub guarantee: Guarantee,
    /// Its name.
    pub title: String,
    /// What this run says of it.
    pub verdict: Verdict,
    /// The checkers that looked, or why none can.
    pub checked_by: Vec<String>,
    /// Operations and messages that they looked at for it.
    pub examined: u64,
    /// How many violations were found.
    pub violations: u64,
}

/// What one checker found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// Its name.
    pub checker: String,
    /// What it holds a history to.
    pub rule: String,
    /// The guarantees that it is about.
    pub guarantees: Vec<Guarantee>,
    /// What it found.
    #[serde(flatten)]
    pub findings: Findings,
    /// How long it took.
    pub took: Duration,
}

/// `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Of the run.
    pub verdict: Verdict,
    /// Why it proves nothing, where that is so.
    pub doubts: Vec<String>,
    /// Operations called.
    pub operations: u64,
    /// Appends acknowledged.
    pub acknowledged: u64,
    /// Faults made; a node that ended by itself is none.
    pub faults: u64,
    /// How many violations were found.
    pub violations: u64,
    /// What is summed up over runs.
    pub figures: Figures,
    /// By guarantee.
    pub judgements: Vec<Judgement>,
    /// By checker.
    pub checkers: Vec<Checked>,
    /// What was run; none if that cannot be read.
    pub run: Option<Run>,
}

impl Results {
    /// Of a run that cannot be judged, and why.
    pub fn unknown(why: String) -> Results {
        Results {
            verdict: Verdict::Unknown,
            doubts: vec![why],
            operations: 0,
            acknowledged: 0,
            faults: 0,
            violations: 0,
            figures: Figures::default(),
            judgements: Vec::new(),
            checkers: Vec::new(),
            run: None,
        }
    }

    /// The guarantees that were broken.
    pub fn broken(&self) -> Vec<Guarantee> {
        let broken = self.judgements.iter().filter(|one| one.verdict == Verdict::Invalid);
        broken.map(|one| one.guarantee).collect()
    }

    /// Violations that were kept, all of one guarantee.
    pub fn kept(&self, guarantee: Guarantee) -> impl Iterator<Item = (&Checked, &Violation)> {
        self.checkers.iter().flat_map(move |checked| {
            let kept = checked.findings.kept.iter();
            kept.filter(move |kept| kept.guarantee == guarantee).map(move |kept| (checked, kept))
        })
    }
}

/// A verdict could not be written down.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct JudgeError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

/// Judges the run in `dir` and writes `results.json`, `history.edn`, `list-append.edn` and `report.html` beside its
/// record. A record that cannot be read is no verdict on the cluster: unknown, with the reason.
///
/// # Errors
/// If the directory cannot be written to.
pub fn judge(dir: &Path) -> Result<Results, JudgeError> {
    let model = match Model::load(dir) {
        Ok(model) => model,
        Err(error) => {
            let results =
                Results::unknown(format!("the record cannot be judged: {}", reasons(&error)));
            write_results(dir, &results)?;
            report::page::write(dir, None, &results)?;
            return Ok(results);
        }
    };
    let results = results_of(&model);
    write_results(dir, &results)?;
    export::write(dir, &model)?;
    report::page::write(dir, Some(&model), &results)?;
    Ok(results)
}

/// Runs all checkers.
pub fn results_of(model: &Model) -> Results {
    let checkers: Vec<Checked> = CHECKERS
        .iter()
        .map(|checker| {
            let began = Instant::now();
            let mut findings = Findings::default();
            checker.check(model, &mut findings);
            Checked {
                checker: checker.name().to_owned(),
                rule: checker.rule().to_owned(),
                guarantees: checker.guarantees().to_vec(),
                findings,
                took: began.elapsed(),
            }
        })
        .collect();
    let doubts = vacuity::doubts(model);
    let violations = checkers.iter().map(|checked| checked.findings.violations).sum();
    let calls =
        model.appends.len() + model.reads.len() + model.outcomes.len() + model.follows.len();
    let acknowledged = model.appends.iter().filter(|append| append.ending.ok().is_some()).count();
    let figures = Figures::of(model);
    Results {
        verdict: verdict(violations, &doubts),
        judgements: Guarantee::ALL.map(|g| judgement(g, &checkers, &doubts)).to_vec(),
        doubts,
        operations: calls as u64,
        acknowledged: acknowledged as u64,
        faults: figures.faults.values().map(|kind| kind.made).sum(),
        violations,
        figures,
        checkers,
        run: Some(model.run.clone()),
    }
}

/// A violation stands whatever else did not happen.
fn verdict(violations: u64, doubts: &[String]) -> Verdict {
    match (violations, doubts) {
        (1.., _) => Verdict::Invalid,
        (0, []) => Verdict::Valid,
        (0, _) => Verdict::Unknown,
    }
}

fn judgement(guarantee: Guarantee, checkers: &[Checked], doubts: &[String]) -> Judgement {
    let examined = checkers.iter().map(|checked| checked.findings.looked_at(guarantee)).sum();
    let broken = |checked: &Checked| checked.findings.by_guarantee.get(&guarantee).copied();
    let violations = checkers.iter().filter_map(broken).sum();
    let verdict = match (violations, examined) {
        (0, 0) => Verdict::Unknown,
        _ => verdict(violations, doubts),
    };
    let looked = checkers
        .iter()
        .filter(|one| one.findings.looked_at(guarantee) > 0 || broken(one).is_some());
    let names = looked.map(|checked| checked.checker.clone());
    let checked_by = match guarantee.beyond() {
        Some(reason) => vec![reason.to_owned()],
        None => names.collect(),
    };
    let title = guarantee.title().to_owned();
    Judgement { guarantee, title, verdict, checked_by, examined, violations }
}

fn reasons(error: &LoadError) -> String {
    let mut reasons = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reasons.push(cause.to_string());
        source = cause.source();
    }
    reasons.join(": ")
}

fn write_results(dir: &Path, results: &Results) -> Result<(), JudgeError> {
    let mut text = serde_json::to_string_pretty(results).expect("results are plain data");
    text.push('\n');
    write(&dir.join(RESULTS), &text)
}

/// Writes a file of this run.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), JudgeError> {
    let failed = |source| JudgeError { path: path.to_owned(), source };
    std::fs::write(path, text).map_err(failed)
}
