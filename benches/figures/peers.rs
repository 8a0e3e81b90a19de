//! What `make bench-peers` found, which wrote `benches/PEERS.md`: figures that stand in relation to other systems are
//! taken from one run of all of them.

use std::path::Path;

use anyhow::Context;

/// The page, with when it was made and of what.
pub struct Peers {
    page: String,
    pub date: String,
    pub commit: String,
}

/// A demand on Quorate beside another system under the same load.
pub struct Beside {
    /// As the page calls them.
    pub workload: &'static str,
    pub system: &'static str,
    pub at_least: f64,
    pub of: Measure,
}

/// What is compared. More is better for Quorate.
pub enum Measure {
    /// Quorate's appends a second divided by the other's.
    Rate,
    /// The other's p50 divided by Quorate's.
    Quickness,
}

/// One row of a workload's table.
struct Row {
    p50_ms: f64,
    ratio: f64,
}

impl Peers {
    pub fn read() -> anyhow::Result<Peers> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/PEERS.md");
        let page = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let said = |what: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(what));
            line.with_context(|| format!("PEERS.md has no line {what:?}")).map(str::to_owned)
        };
        Ok(Peers { date: said("- date: ")?, commit: said("- commit: ")?, page })
    }

    /// Quorate's share, as the demand measures it; none if the page does not have it, say because a system was not run.
    pub fn share(&self, demand: &Beside) -> Option<f64> {
        let theirs = self.row(demand.workload, demand.system)?;
        Some(match demand.of {
            Measure::Rate => theirs.ratio,
            Measure::Quickness => theirs.p50_ms / self.row(demand.workload, "Quorate")?.p50_ms,
        })
    }

    fn row(&self, workload: &str, system: &str) -> Option<Row> {
        let below_title = self.page.lines().skip_while(|line| *line != workload).skip(2);
        let mut table = below_title.take_while(|line| line.starts_with('|'));
        let start = format!("| {system} |");
        let row = table.find(|line| line.starts_with(&start))?;
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let number = |at: usize| cells.get(at)?.trim_end_matches(" ×").parse().ok();
        Some(Row { p50_ms: number(5)?, ratio: number(7)? })
    }
}
