//! All runs of a directory in sum: plain runs for what they prove, positive controls apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use super::{escape, thousands};
use crate::check::Guarantee;
use crate::judge::{Calls, Faults, Figures, Results, Verdict};
use crate::matrix::CONTROLS;

/// `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many plain runs there are.
    pub runs: u64,
    /// Of them.
    pub valid: u64,
    /// Of them.
    pub invalid: u64,
    /// Of them.
    pub unknown: u64,
    /// When the first of them began, RFC 3339; empty if there is none.
    pub first_began: String,
    /// When the last of them began.
    pub last_began: String,
    /// What the binaries that were run said of their versions.
    pub versions: BTreeSet<String>,
    /// How long they took, in hours of real time.
    pub hours: f64,
    /// Calls of clients by how they ended.
    pub operations: Calls,
    /// Appends that were acknowledged; they are among the operations.
    pub appends_acknowledged: u64,
    /// Messages that were acknowledged and were not there at the end.
    pub acknowledged_messages_lost: u64,
    /// Messages that were acknowledged and that no read at the end had to show.
    pub acknowledged_messages_not_looked_for: u64,
    /// Of every guarantee that was exercised.
    pub violations: BTreeMap<Guarantee, u64>,
    /// Faults that were injected.
    pub faults_injected: u64,
    /// Of them, those that were seen to take effect.
    pub faults_took_effect: u64,
    /// By kind of fault.
    pub faults: BTreeMap<String, FaultKind>,
    /// How often a node ended that nobody had ended.
    pub ended_by_themselves: u64,
    /// Positive controls: planted faults that were run.
    pub controls: u64,
    /// Of them, those that were caught by what is meant to catch them, in one of their runs at least.
    pub controls_caught: u64,
    /// The others.
    pub controls_missed: Vec<String>,
}

/// Faults of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultKind {
    /// How many were injected.
    pub injected: u64,
    /// Of them, those that were seen to take effect.
    pub took_effect: u64,
    /// After how many of them the time to serve was measured. Where two were mended together it counts for both.
    pub measured: u64,
    /// From mending until every group served, in seconds: half of the times are no longer.
    pub served_after_p50_s: Option<f64>,
    /// 99 of 100 are no longer.
    pub served_after_p99_s: Option<f64>,
    /// The longest.
    pub served_after_max_s: Option<f64>,
}

impl Summary {
    /// Sums up.
    pub fn of<'a>(all: impl Iterator<Item = &'a Results> + Clone) -> Summary {
        let planted = |results: &&Results| planted(results).is_some();
        let mut summary = Summary::default();
        let mut figures = Figures::default();
        for results in all.clone().filter(|results| !planted(results)) {
            summary.add(results);
            figures.add(&results.figures);
        }
        summary.hours = figures.lasted as f64 / 3_600e9;
        summary.operations = figures.calls;
        summary.acknowledged_messages_lost = figures.messages_lost;
        summary.acknowledged_messages_not_looked_for = figures.messages_not_looked_for;
        summary.ended_by_themselves = figures.ended_by_themselves;
        summary.faults_injected = figures.faults.values().map(|kind| kind.made).sum();
        summary.faults_took_effect = figures.faults.values().map(|kind| kind.took_effect).sum();
        let kinds = figures.faults.iter().map(|(name, kind)| (name.clone(), kind.into()));
        summary.faults = kinds.collect();
        summary.add_controls(all.filter(planted));
        summary
    }

    fn add(&mut self, results: &Results) {
        self.runs += 1;
        *match results.verdict {
            Verdict::Valid => &mut self.valid,
            Verdict::Invalid => &mut self.invalid,
            Verdict::Unknown => &mut self.unknown,
        } += 1;
        self.appends_acknowledged += results.acknowledged;
        for judgement in results.judgements.iter().filter(|one| one.examined > 0) {
            *self.violations.entry(judgement.guarantee).or_default() += judgement.violations;
        }
        let Some(run) = &results.run else { return };
        if self.first_began.is_empty() || run.started < self.first_began {
            self.first_began.clone_from(&run.started);
        }
        if run.started > self.last_began {
            self.last_began.clone_from(&run.started);
        }
        self.versions.insert(run.version.clone());
    }

    fn add_controls<'a>(&mut self, all: impl Iterator<Item = &'a Results>) {
        let mut caught: BTreeMap<&str, bool> = BTreeMap::new();
        for results in all {
            let Some(name) = planted(results) else { continue };
            *caught.entry(name).or_default() |= is_caught(name, results);
        }
        self.controls = caught.len() as u64;
        let missed = caught.into_iter().filter(|(_, caught)| !caught);
        self.controls_missed = missed.map(|(name, _)| name.to_owned()).collect();
        self.controls_caught = self.controls - self.controls_missed.len() as u64;
    }

    /// For a terminal, and for a README.
    pub fn markdown(&self) -> String {
        let mut text = "| plain runs | |\n|---|---|\n".to_owned();
        for (what, value) in self.rows() {
            let _ = writeln!(text, "| {what} | {} |", value.replace('|', "\\|"));
        }
        if self.faults.is_empty() {
            return text;
        }
        text +=
            "\n| fault | injected | took effect | all served again after, s: p50 | p99 | max |\n";
        text += "|---|---|---|---|---|---|\n";
        for (name, kind) in &self.faults {
            let [p50, p99, max] = kind.served_after();
            let (injected, took_effect) = (kind.injected, kind.took_effect);
            let _ =
                writeln!(text, "| {name} | {injected} | {took_effect} | {p50} | {p99} | {max} |");
        }
        text
    }

    /// For the page of all runs.
    pub(super) fn html(&self) -> String {
        let mut html = "<h2>In sum</h2>\n<dl>\n".to_owned();
        for (what, value) in self.rows() {
            let _ = writeln!(html, "<dt>{what}</dt><dd>{}</dd>", escape(&value));
        }
        html += "</dl>\n";
        if !self.faults.is_empty() {
            html += "<h2>Faults of plain runs</h2>\n";
            html += &table(&self.faults);
        }
        html
    }

    /// What is said of all runs, in the order of its weight.
    fn rows(&self) -> Vec<(&'static str, String)> {
        let Calls { acknowledged, failed, unknown } = self.operations;
        let [all, ok, failed, unknown_ones] =
            [self.operations.all(), acknowledged, failed, unknown].map(thousands);
        let broken = self.violations.iter().filter(|(_, count)| **count > 0);
        let broken: Vec<String> = broken
            .map(|(guarantee, count)| format!("{guarantee:?}: {}", thousands(*count)))
            .collect();
        let exercised = self.violations.keys().map(|one| format!("{one:?}")).collect::<Vec<_>>();
        let violations = match broken.is_empty() {
            true => format!("0 (looked at {})", exercised.join(", ")),
            false => format!("{} (looked at {})", broken.join(", "), exercised.join(", ")),
        };
        let missed = match self.controls_missed.is_empty() {
            true => String::new(),
            false => format!("; missed: {}", self.controls_missed.join(", ")),
        };
        let (valid, invalid, unknown) = (self.valid, self.invalid, self.unknown);
        let mut rows = vec![
            ("runs", format!("{}: {valid} valid, {invalid} invalid, {unknown} unknown", self.runs)),
            ("began", format!("{} to {}", self.first_began, self.last_began)),
            ("versions", self.versions.iter().cloned().collect::<Vec<_>>().join(", ")),
            ("real time", format!("{:.2} h", self.hours)),
            (
                "operations",
                format!("{all}: {ok} acknowledged, {failed} failed, {unknown_ones} unknown"),
            ),
            ("appends acknowledged", thousands(self.appends_acknowledged)),
            ("acknowledged messages lost", thousands(self.acknowledged_messages_lost)),
            (
                "acknowledged messages not looked for",
                thousands(self.acknowledged_messages_not_looked_for),
            ),
            ("violations", violations),
            (
                "faults injected",
                format!(
                    "{}, of which {} were seen to take effect",
                    thousands(self.faults_injected),
                    thousands(self.faults_took_effect)
                ),
            ),
            (
                "nodes that ended by themselves, on a broken disk or as a violation",
                thousands(self.ended_by_themselves),
            ),
        ];
        if self.controls > 0 {
            let caught = format!("{} of {}{missed}", self.controls_caught, self.controls);
            rows.push(("positive controls caught (apart from the above)", caught));
        }
        rows
    }
}

impl FaultKind {
    /// p50, p99 and max in seconds, for people.
    fn served_after(&self) -> [String; 3] {
        [self.served_after_p50_s, self.served_after_p99_s, self.served_after_max_s]
            .map(|time| time.map_or("–".to_owned(), |seconds| format!("{seconds:.3}")))
    }
}

impl From<&Faults> for FaultKind {
    fn from(faults: &Faults) -> FaultKind {
        FaultKind {
            injected: faults.made,
            took_effect: faults.took_effect,
            measured: faults.served_after.len() as u64,
            served_after_p50_s: faults.served_after_s(0.5),
            served_after_p99_s: faults.served_after_s(0.99),
            served_after_max_s: faults.served_after_s(1.0),
        }
    }
}

/// Faults by kind, as a table.
pub(super) fn table(kinds: &BTreeMap<String, FaultKind>) -> String {
    let mut html = "<div class=\"scroll\"><table>\n<tr><th>fault<th class=\"number\">injected\
         <th class=\"number\">seen to take effect<th class=\"number\">measured\
         <th class=\"number\">all served after, s: p50<th class=\"number\">p99<th class=\"number\">max</tr>\n"
        .to_owned();
    for (name, kind) in kinds {
        let [p50, p99, max] = kind.served_after();
        let _ = writeln!(
            html,
            "<tr><td>{}<td class=\"number\">{}<td class=\"number\">{}<td class=\"number\">{}\
             <td class=\"number\">{p50}<td class=\"number\">{p99}<td class=\"number\">{max}</tr>",
            escape(name),
            kind.injected,
            kind.took_effect,
            kind.measured
        );
    }
    html + "</table></div>\n"
}

fn planted(results: &Results) -> Option<&str> {
    results.run.as_ref()?.planted.as_deref()
}

/// As in a matrix.
fn is_caught(name: &str, results: &Results) -> bool {
    CONTROLS.iter().any(|control| control.planted == name && control.is_caught(results))
}
