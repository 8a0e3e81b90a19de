//! `index.html`: all runs of a directory, one row each, the newest first.

use std::fmt::Write;
use std::path::Path;

use super::page::PAGE;
use super::{document, escape, thousands};
use crate::judge::{JudgeError, RESULTS, Results, Verdict, write as write_file};

/// The page, in the directory of the runs.
pub const INDEX: &str = "index.html";

/// A run that was judged, in the directory of this name.
type Row = (String, Results);

/// Writes the page over all runs in `runs_dir` that have been judged, and says how many there are of each verdict:
/// valid, invalid, unknown. A directory without results is no run; results that cannot be read are told as unknown.
///
/// # Errors
/// If the directory cannot be read or written to.
pub fn index(runs_dir: &Path) -> Result<[usize; 3], JudgeError> {
    let failed = |source| JudgeError { path: runs_dir.to_owned(), source };
    let mut rows: Vec<Row> = Vec::new();
    for entry in std::fs::read_dir(runs_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(text) = std::fs::read_to_string(entry.path().join(RESULTS)) else { continue };
        let results = serde_json::from_str(&text).unwrap_or_else(|_| unreadable());
        rows.push((entry.file_name().to_string_lossy().into_owned(), results));
    }
    let began = |row: &Row| row.1.run.as_ref().map(|run| run.started.clone());
    rows.sort_by(|a, b| began(b).cmp(&began(a)).then_with(|| a.0.cmp(&b.0)));
    write_file(&runs_dir.join(INDEX), &page(&rows))?;
    let count = |verdict| rows.iter().filter(|(_, results)| results.verdict == verdict).count();
    Ok([Verdict::Valid, Verdict::Invalid, Verdict::Unknown].map(count))
}

fn unreadable() -> Results {
    Results {
        verdict: Verdict::Unknown,
        doubts: vec!["results.json cannot be read".to_owned()],
        operations: 0,
        acknowledged: 0,
        faults: 0,
        violations: 0,
        judgements: Vec::new(),
        checkers: Vec::new(),
        run: None,
    }
}

fn page(rows: &[Row]) -> String {
    let mut body = format!(
        "<h1>Runs of the fault suite</h1>\n<p class=\"muted\">{} runs, the newest first.</p>\n\
         <div class=\"scroll\"><table>\n<tr><th>run<th>began<th>verdict<th>workloads<th>nemeses\
         <th class=\"number\">operations<th class=\"number\">acknowledged<th class=\"number\">faults\
         <th class=\"number\">violations</tr>\n",
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
