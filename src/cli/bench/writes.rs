//! What a node's databases wrote to disk, told apart by what it was for: RocksDB's info logs have an event for each
//! file.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

/// What comes before an event in a line of an info log.
const EVENT: &str = "EVENT_LOG_v1 ";

/// Bytes of the files that a database made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FileBytes {
    /// Memtables that became files.
    pub(super) flushed: u64,
    /// Files made from other files.
    pub(super) compacted: u64,
}

/// The parts of an event that matter here.
#[derive(Deserialize)]
struct Event {
    event: String,
    /// Since the Unix epoch.
    #[serde(default)]
    time_micros: u64,
    #[serde(default)]
    job: u64,
    /// Of a table file.
    #[serde(default)]
    file_size: u64,
    /// Of a blob file.
    #[serde(default)]
    total_blob_bytes: u64,
}

impl FileBytes {
    /// What the databases in a node's data directory wrote until then, in microseconds since the Unix epoch. They must
    /// be closed, because an info log is written with delay; what they wrote to close comes after that time.
    pub(super) fn of_node(data_dir: &Path, until_us: u64) -> anyhow::Result<FileBytes> {
        let mut sum = FileBytes::default();
        for database in ["log", "state"] {
            let mut jobs = HashSet::new();
            for log in info_logs(&data_dir.join(database))? {
                sum.add_log(&log, until_us, &mut jobs);
            }
        }
        Ok(sum)
    }

    /// Adds what an info log tells; `compactions` are the jobs of the logs before it.
    fn add_log(&mut self, log: &str, until_us: u64, compactions: &mut HashSet<u64>) {
        let events = log.lines().filter_map(|line| line.split_once(EVENT));
        for event in events.filter_map(|(_, json)| serde_json::from_str::<Event>(json).ok()) {
            match event.event.as_str() {
                "compaction_started" => {
                    compactions.insert(event.job);
                }
                // Numbers of jobs start over when a database is opened again.
                "flush_started" | "recovery_started" => {
                    compactions.remove(&event.job);
                }
                "table_file_creation" | "blob_file_creation" if event.time_micros <= until_us => {
                    let bytes = event.file_size + event.total_blob_bytes;
                    match compactions.contains(&event.job) {
                        true => self.compacted += bytes,
                        false => self.flushed += bytes,
                    }
                }
                _ => {}
            }
        }
    }
}

/// The info logs of a database, from the oldest: `LOG.old.` and a time, and `LOG`.
fn info_logs(database: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(database)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.strip_prefix("LOG.old.").map(str::parse) {
            Some(Ok(time)) => files.push((time, entry.path())),
            _ if name == "LOG" => files.push((u64::MAX, entry.path())),
            _ => {}
        }
    }
    files.sort();
    let read = |(_, file)| Ok(String::from_utf8_lossy(&std::fs::read(file)?).into_owned());
    files.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"
2026/01/01-00:00:00.000000 7 EVENT_LOG_v1 {"time_micros": 1, "job": 3, "event": "flush_started", "num_memtables": 1}
2026/01/01-00:00:00.000000 7 EVENT_LOG_v1 {"time_micros": 1, "cf_name": "messages", "job": 3, "event": "table_file_creation", "file_number": 9, "file_size": 100, "table_properties": {"data_size": 90}}
2026/01/01-00:00:00.000000 7 EVENT_LOG_v1 {"time_micros": 1, "cf_name": "messages", "job": 3, "event": "blob_file_creation", "file_number": 10, "total_blob_count": 2, "total_blob_bytes": 1000}
2026/01/01-00:00:00.000000 7 [db/compaction/compaction_job.cc:1] a line of another kind
2026/01/01-00:00:00.000000 7 EVENT_LOG_v1 {"job": 4, "event": "compaction_started", "cf_name": "dedup"}
2026/01/01-00:00:00.000000 7 EVENT_LOG_v1 {"time_micros": 9, "cf_name": "dedup", "job": 4, "event": "table_file_creation", "file_size": 30}
2026/01/01-00:00:00.000000 7 EVENT_LOG_v1 {"time_micros": 10, "job": 5, "event": "table_file_creation", "file_size": 7}
"#;

    #[test]
    fn flushes_and_compactions_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        for database in ["log", "state"] {
            std::fs::create_dir(folder.path().join(database)).unwrap();
        }
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text);
        write("state/LOG.old.1700000000000000", LOG).unwrap();
        write("state/LOG", &LOG.lines().nth(6).unwrap().replace("30", "5")).unwrap();
        write("log/LOG", &LOG.replace("\"job\": 3", "\"job\": 4")).unwrap();
        let written = FileBytes::of_node(folder.path(), 9).unwrap();
        assert_eq!(written, FileBytes { flushed: 2_200, compacted: 65 }, "nothing later counts");
    }
}
