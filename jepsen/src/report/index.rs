//! `index.html`: all runs of a directory, their sum first, then a row each, the newest first. `summary.json`: the sum.

use std::fmt::Write;
use std::path::Path;

use super::page::PAGE;
use super::summary::Summary;
use super::{document, escape, thousands};
use crate::judge::{JudgeError, RESULTS, Results, write as write_file};
use crate::record::HISTORY;

/// The page, in the directory of the runs.
pub const INDEX: &str = "index.html";
/// The sum, beside it.
pub const SUMMARY: &str = "summary.json";

/// A run, in the directory of this name.
type Row = (String, Results);

/// Writes the page over all runs in `runs_dir` and their sum, and returns that. What was not judged, or cannot be read,
/// is unknown.
///
/// # Errors
/// If the directory cannot be read or written to.
pub fn index(runs_dir: &Path) -> Result<Summary, JudgeError> {
    let failed = |source| JudgeError { path: runs_dir.to_owned(), source };
    let mut rows: Vec<Row> = Vec::new();
    for entry in std::fs::read_dir(runs_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(results) = results_in(&entry.path()) {
            rows.push((entry.file_name().to_string_lossy().into_owned(), results));
        }
    }
    let began = |row: &Row| row.1.run.as_ref().map(|run| run.started.clone());
    rows.sort_by(|a, b| began(b).cmp(&began(a)).then_with(|| a.0.cmp(&b.0)));
    let summary = Summary::of(rows.iter().map(|(_, results)| results));
    write_file(&runs_dir.join(INDEX), &page(&rows, &summary))?;
    let mut text = serde_json::to_string_pretty(&summary).expect("a summary is plain data");
    text.push('\n');
    write_file(&runs_dir.join(SUMMARY), &text)?;
    Ok(summary)
}

/// What is known of the run in a directory; none if there is no run.
fn results_in(dir: &Path) -> Option<Results> {
    match std::fs::read_to_string(dir.join(RESULTS)) {
        Ok(text) => Some(serde_json::from_str(&text).unwrap_or_else(|_| {
            let why = format!("{RESULTS} cannot be read: quorate-jepsen check writes it anew");
            Results::unknown(why)
        })),
        Err(_) if dir.join(HISTORY).exists() => {
            Some(Results::unknown("it was not completed, or not judged".to_owned()))
        }
        Err(_) => None,
    }
}

fn page(rows: &[Row], summary: &Summary) -> String {
    let mut body = format!(
        "<h1>Runs of the fault suite</h1>\n{}<h2>Each run</h2>\n\
         <p class=\"muted\">{} runs, positive controls among them, the newest first.</p>\n\
         <div class=\"scroll\"><table>\n<tr><th>run<th>began<th>verdict<th>workloads<th>nemeses\
         <th class=\"number\">operations<th class=\"number\">acknowledged<th class=\"number\">faults\
         <th class=\"number\">violations</tr>\n",
        summary.html(),
        rows.len()
    );
    for (dir, results) in rows {
        let run = results.run.as_ref();
        let name = run.map_or(dir.as_str(), |run| run.name.as_str());
        let list = |names: &[String]| escape(&names.join(", "));
        let word = results.verdict.word();
        let doubt = results.doubts.first().map_or(String::new(), |doubt| {
            format!("<br><span class=\"muted\">{}</span>", escape(doubt))
        });
        let planted = run.and_then(|run| run.planted.as_deref()).map_or(String::new(), |planted| {
            format!("<br><span class=\"muted\">planted: {}</span>", escape(planted))
        });
        let _ = writeln!(
            body,
            "<tr><td><a href=\"./{}/{PAGE}\">{}</a>{planted}<td class=\"when\">{}\
             <td><span class=\"word {word}\">{word}</span>{doubt}<td>{}<td>{}<td class=\"number\">{}<td class=\"number\">{}<td class=\"number\">{}\
             <td class=\"number\">{}</tr>",
            escape(dir),
            escape(name),
            escape(run.map_or("", |run| run.started.as_str())),
            run.map_or(String::new(), |run| list(&run.workloads)),
            run.map_or(String::new(), |run| list(&run.nemeses)),
            thousands(results.operations),
            thousands(results.acknowledged),
            thousands(results.faults),
            thousands(results.violations)
        );
    }
    body += "</table></div>\n";
    document("Runs of the fault suite", &body)
}
