//! `report.html`: one run.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::series::Series;
use super::{document, escape, plot, seconds, summary, thousands};
use crate::check::{Guarantee, VIOLATIONS_KEPT_MAX, Violation};
use crate::history::Run;
use crate::judge::{Checked, JudgeError, Judgement, Results, Verdict, write as write_file};
use crate::model::Model;
use crate::record::LEADERS;

/// The page, in the directory of its run.
pub const PAGE: &str = "report.html";

/// Writes the page. Without a model, only the verdict can be shown, and why.
pub fn write(dir: &Path, model: Option<&Model>, results: &Results) -> Result<(), JudgeError> {
    let mut files = node_logs(dir);
    if dir.join(LEADERS).exists() {
        files.insert(0, LEADERS.to_owned());
    }
    write_file(&dir.join(PAGE), &page(model, results, &files))
}

/// The logs and configurations of the nodes, relative to the run.
fn node_logs(dir: &Path) -> Vec<String> {
    let files = std::fs::read_dir(dir.join("nodes")).into_iter().flatten().flatten();
    let paths = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "log" || ending == "toml"));
    let relative = |path: PathBuf| path.strip_prefix(dir).ok()?.to_str().map(str::to_owned);
    let mut logs: Vec<String> = paths.filter_map(relative).collect();
    logs.sort();
    logs
}

/// The whole page, with links to these files of the run besides those that every run has.
pub fn page(model: Option<&Model>, results: &Results, further: &[String]) -> String {
    let name = results.run.as_ref().map_or("A run that cannot be judged", |run| run.name.as_str());
    let mut body = format!("<h1>{}</h1>\n", escape(name));
    body += &head(results);
    if let Some(run) = &results.run {
        body += &configuration(run);
    }
    body += &guarantees(results);
    if let Some(model) = model {
        let series = Series::of(model);
        body += "<h2>Latency</h2>\n";
        body += &plot::latency(model, &series);
        body += &plot::latency_legend();
        body += "<h2>Throughput</h2>\n";
        body += &plot::rates(model, &series);
        body += &plot::rates_legend();
        body += "<h2>Faults</h2>\n";
        if !model.faults.is_empty() {
            body += &plot::timeline(model, series.length);
        }
        body += &faults(model, results);
        if !model.leaders.is_empty() {
            body += "<h2>Leaders</h2>\n";
            body += &plot::leaders(model, series.length);
        }
    }
    body += &checkers(results);
    body += &files(further);
    document(&format!("{}: {name}", results.verdict.word()), &body)
}

fn word(verdict: Verdict) -> String {
    let word = verdict.word();
    format!("<span class=\"word {word}\">{word}</span>")
}

fn head(results: &Results) -> String {
    let class = results.verdict.word();
    let says = match results.verdict {
        Verdict::Valid => "Every promise that was looked at was kept.".to_owned(),
        Verdict::Invalid => {
            let broken = results.judgements.iter().filter(|j| j.verdict == Verdict::Invalid);
            let broken: Vec<String> = broken.map(label).collect();
            format!("Broken: {}.", broken.join(", "))
        }
        Verdict::Unknown => "This run proves nothing.".to_owned(),
    };
    let mut html =
        format!("<div class=\"verdict {class}\"><strong>{class}</strong> {}", escape(&says));
    let _ = write!(
        html,
        "<p>{} operations, {} appends acknowledged, {} faults, {} violations.</p>",
        thousands(results.operations),
        thousands(results.acknowledged),
        thousands(results.faults),
        thousands(results.violations)
    );
    let _ = write!(
        html,
        "<p>{} acknowledged messages lost, {} not looked for.</p>",
        thousands(results.figures.messages_lost),
        thousands(results.figures.messages_not_looked_for)
    );
    let besides = if results.verdict == Verdict::Invalid { "Besides: " } else { "" };
    for doubt in &results.doubts {
        let _ = write!(html, "<p>{besides}{}</p>", escape(doubt));
    }
    html + "</div>\n"
}

fn configuration(run: &Run) -> String {
    let excused = run.excused.iter().map(|(node, why)| format!("node {node}: {why}"));
    let excused: Vec<String> = excused.collect();
    let rows = [
        ("began", run.started.clone()),
        ("version", run.version.clone()),
        ("seed", run.seed.to_string()),
        ("nodes", run.nodes.to_string()),
        ("workloads", run.workloads.join(", ")),
        ("nemeses", run.nemeses.join(", ")),
        ("faults made for", format!("{} s", run.duration_s)),
        ("planted fault", run.planted.clone().unwrap_or_default()),
        ("not read at the end", excused.join("; ")),
        ("machine", run.pressure().unwrap_or_default()),
    ];
    let rows = rows.iter().filter(|(_, value)| !value.is_empty());
    let rows: String =
        rows.map(|(term, value)| format!("<dt>{term}</dt><dd>{}</dd>\n", escape(value))).collect();
    format!(
        "<h2>What was run</h2>\n<dl>{rows}</dl>\n<p>The same again:</p>\n<pre>{}</pre>\n",
        escape(&run.command)
    )
}

fn label(judgement: &Judgement) -> String {
    match judgement.guarantee {
        Guarantee::Availability => judgement.title.clone(),
        numbered => format!("{numbered:?} {}", judgement.title),
    }
}

fn guarantees(results: &Results) -> String {
    if results.judgements.is_empty() {
        return String::new();
    }
    let mut html =
        "<h2>By guarantee</h2>\n<div class=\"scroll\"><table>\n<tr><th>guarantee<th>verdict\
         <th>checked by<th class=\"number\">looked at<th class=\"number\">violations</tr>\n"
            .to_owned();
    for judgement in &results.judgements {
        // What no history can tell has no verdict of its own.
        let verdict = match judgement.guarantee.beyond() {
            Some(_) => "<span class=\"muted\">not judged</span>".to_owned(),
            None if judgement.examined == 0 => {
                "<span class=\"muted\">not exercised</span>".to_owned()
            }
            None => word(judgement.verdict),
        };
        let _ = writeln!(
            html,
            "<tr><td>{}<td>{verdict}<td>{}<td class=\"number\">{}<td class=\"number\">{}</tr>",
            escape(&label(judgement)),
            escape(&judgement.checked_by.join(", ")),
            thousands(judgement.examined),
            thousands(judgement.violations)
        );
    }
    html += "</table></div>\n";
    let kept = Guarantee::ALL.into_iter().flat_map(|guarantee| results.kept(guarantee));
    for (nth, (checked, violation)) in kept.enumerate() {
        html += &evidence(checked, violation, nth == 0);
    }
    let more = |c: &&Checked| c.findings.violations > VIOLATIONS_KEPT_MAX as u64;
    for checked in results.checkers.iter().filter(more) {
        let _ = writeln!(
            html,
            "<p class=\"muted\">{}: the first {VIOLATIONS_KEPT_MAX} of {} violations are shown.</p>",
            escape(&checked.checker),
            thousands(checked.findings.violations)
        );
    }
    html
}

/// One violation; the first lies open.
fn evidence(checked: &Checked, violation: &Violation, is_open: bool) -> String {
    let open = if is_open { " open" } else { "" };
    let mut html = format!(
        "<details{open}><summary><span class=\"word invalid\">{:?}</span> {} <span class=\"muted\">({})</span>\
         </summary>\n<div class=\"scroll\"><table>\n<tr><th class=\"number\">at, s<th class=\"number\">line\
         <th class=\"number\">process<th class=\"number\">node<th>shows</tr>\n",
        violation.guarantee,
        escape(&violation.what),
        escape(&checked.checker)
    );
    let known = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    for event in &violation.evidence {
        let _ = writeln!(
            html,
            "<tr><td class=\"number\">{}<td class=\"number\">{}<td class=\"number\">{}\
             <td class=\"number\">{}<td>{}</tr>",
            seconds(event.at),
            known(event.line),
            event.process,
            known(event.node.into()),
            escape(&event.shows)
        );
    }
    html + "</table></div></details>\n"
}

/// By kind of fault: how many, how many seen to take effect, and how soon everything served again.
fn faults(model: &Model, results: &Results) -> String {
    if model.faults.is_empty() {
        return "<p>None were made.</p>\n".to_owned();
    }
    let kinds = results.figures.faults.iter();
    let kinds = kinds.map(|(name, kind)| (name.clone(), kind.into())).collect();
    let mut html = summary::table(&kinds);
    html += "<details><summary>Each fault</summary>\n<div class=\"scroll\"><table>\n\
             <tr><th class=\"number\">from, s<th class=\"number\">to, s<th>fault<th>nodes<th>what<th>effect</tr>\n";
    for fault in &model.faults {
        let nodes: Vec<String> = fault.nodes.iter().map(u32::to_string).collect();
        let _ = writeln!(
            html,
            "<tr><td class=\"number\">{}<td class=\"number\">{}<td>{}<td>{}<td>{}<td>{}</tr>",
            seconds(fault.from),
            seconds(fault.to),
            escape(&fault.nemesis),
            nodes.join(", "),
            escape(&fault.what),
            escape(fault.effect.as_deref().unwrap_or("not seen"))
        );
    }
    html + "</table></div></details>\n"
}

fn checkers(results: &Results) -> String {
    if results.checkers.is_empty() {
        return String::new();
    }
    let mut html =
        "<h2>Checkers</h2>\n<div class=\"scroll\"><table>\n<tr><th>checker<th>guarantees<th>rule\
         <th class=\"number\">looked at<th class=\"number\">violations</tr>\n"
            .to_owned();
    for checked in &results.checkers {
        let guarantees = checked.guarantees.iter().map(|guarantee| format!("{guarantee:?}"));
        // For each of them, in the same order.
        let looked_at = checked.guarantees.iter().map(|one| checked.findings.looked_at(*one));
        let looked_at = looked_at.map(thousands);
        let _ = writeln!(
            html,
            "<tr><td>{}<td>{}<td>{}<td class=\"number\">{}<td class=\"number\">{}</tr>",
            escape(&checked.checker),
            guarantees.collect::<Vec<_>>().join(", "),
            escape(&checked.rule),
            looked_at.collect::<Vec<_>>().join(", "),
            thousands(checked.findings.violations)
        );
    }
    html + "</table></div>\n"
}

fn files(further: &[String]) -> String {
    let record = ["run.json", "history.jsonl", "nemesis.jsonl", "results.json"];
    let exports = [crate::export::KAFKA, crate::export::LIST_APPEND];
    let all = record.iter().chain(&exports).map(|name| (*name).to_owned());
    let links = all.chain(further.iter().cloned()).map(|path| {
        // A path is a link to a file beside this page, whatever its name.
        let path = escape(&path);
        format!("<li><a href=\"./{path}\">{path}</a></li>\n")
    });
    format!("<h2>Files</h2>\n<ul>{}</ul>\n", links.collect::<String>())
}
