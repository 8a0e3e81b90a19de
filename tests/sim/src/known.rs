//! Seeds that are always simulated: a file with one on each line.

use std::io::Write;
use std::path::Path;

use anyhow::Context;

/// Seeds of a file; `#` begins a remark.
pub fn read(file: &Path) -> anyhow::Result<Vec<u64>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let seeds = lines.filter(|line| !line.is_empty());
    let parse = |seed: &str| {
        seed.parse().with_context(|| format!("{}: {seed:?} is not a seed", file.display()))
    };
    seeds.map(parse).collect()
}

/// Adds a seed to a file.
pub fn remember(file: &Path, seed: u64) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).open(file)?;
    Ok(writeln!(file, "{seed}")?)
}
