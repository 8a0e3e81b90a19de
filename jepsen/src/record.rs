//! Writes down a run while it runs, and reads it back.
//!
//! One thread writes; clients hand it what they did through a bounded queue, and wait when that is full: a history with
//! holes proves nothing. `run.json` comes last, so that a directory with it is complete.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::history::{Event, Fault, Led, Nanos, Run};

/// What clients did and saw.
pub const HISTORY: &str = "history.jsonl";
/// What was broken.
pub const NEMESIS: &str = "nemesis.jsonl";
/// Who led. Older records do not have it.
pub const LEADERS: &str = "leaders.jsonl";
/// What was run.
pub const RUN: &str = "run.json";

/// Events that wait for the writer. A read's event holds a thousand messages, so this is some 100 MB at worst.
const QUEUE_EVENTS_MAX: usize = 1_024;
const BUFFER_BYTES: usize = 1 << 20;

/// Writing a run's record failed: the run proves nothing.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct RecordError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

/// A run's record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file is missing or cannot be read.
    #[error("cannot read {}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is damaged or cut off.
    #[error("{}:{line} is damaged or cut off", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What was expected there.
        source: serde_json::Error,
    },
}

/// Records a run. Cheap to clone; all clones write to the same files.
#[derive(Clone)]
pub struct Recorder {
    began: Instant,
    queue: SyncSender<Entry>,
    dir: PathBuf,
}

enum Entry {
    Event(Event),
    Fault(Fault),
    Led(Led),
    Finish(SyncSender<Result<(), RecordError>>),
}

impl Recorder {
    /// Makes `dir` if need be, and its files of lines anew. The run's clock starts now.
    pub fn create(dir: &Path) -> Result<Self, RecordError> {
        std::fs::create_dir_all(dir).map_err(|source| at(dir, source))?;
        let files = Files {
            events: Lines::create(dir, HISTORY)?,
            faults: Lines::create(dir, NEMESIS)?,
            leaders: Lines::create(dir, LEADERS)?,
        };
        let (queue, entries) = mpsc::sync_channel(QUEUE_EVENTS_MAX);
        std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || write(&entries, files))
            .map_err(|source| at(dir, source))?;
        Ok(Self { began: Instant::now(), queue, dir: dir.to_owned() })
    }

    /// The run's clock: monotonic, the same for all clones.
    pub fn now(&self) -> Nanos {
        let nanos = self.began.elapsed().as_nanos();
        Nanos::try_from(nanos).expect("a run is shorter than 584 years")
    }

    /// Records what a client did or saw; blocks while the writer is behind.
    ///
    /// What comes after [`Recorder::finish`] is left out: its operation stays open, and an open operation may or may
    /// not have taken effect.
    pub fn event(&self, event: Event) {
        self.queue.send(Entry::Event(event)).ok();
    }

    /// Records a fault once it has been mended; blocks while the writer is behind.
    pub fn fault(&self, fault: Fault) {
        self.queue.send(Entry::Fault(fault)).ok();
    }

    /// Records who leads a group from now on; blocks while the writer is behind.
    pub fn led(&self, led: Led) {
        self.queue.send(Entry::Led(led)).ok();
    }

    /// Completes the record: everything recorded before is on its way to the disk, and then `run.json` is made.
    pub fn finish(self, run: &Run) -> Result<(), RecordError> {
        let (done, written) = mpsc::sync_channel(1);
        let gone = || at(&self.dir, std::io::Error::other("the writer is gone"));
        self.queue.send(Entry::Finish(done)).map_err(|_| gone())?;
        written.recv().map_err(|_| gone())??;
        let (path, draft) = (self.dir.join(RUN), self.dir.join("run.json.draft"));
        let mut text = serde_json::to_string_pretty(run).expect("a run is plain data");
        text.push('\n');
        std::fs::write(&draft, text).map_err(|source| at(&draft, source))?;
        std::fs::rename(&draft, &path).map_err(|source| at(&path, source))
    }
}

/// Writes until the run is finished or every recorder is gone. After an error it goes on taking entries, so that no
/// client waits forever, and tells of the error at the end.
fn write(entries: &Receiver<Entry>, mut files: Files) {
    let mut outcome = Ok(());
    for entry in entries {
        let written = match entry {
            Entry::Finish(done) => {
                done.send(outcome.and_then(|()| files.flush())).ok();
                return;
            }
            _ if outcome.is_err() => Ok(()),
            Entry::Event(event) => files.events.push(&event),
            Entry::Fault(fault) => files.faults.push(&fault),
            Entry::Led(led) => files.leaders.push(&led),
        };
        outcome = outcome.and(written);
    }
}

struct Files {
    events: Lines,
    faults: Lines,
    leaders: Lines,
}

impl Files {
    fn flush(&mut self) -> Result<(), RecordError> {
        [&mut self.events, &mut self.faults, &mut self.leaders]
            .into_iter()
            .try_for_each(Lines::flush)
    }
}

struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Lines {
    fn create(dir: &Path, name: &str) -> Result<Self, RecordError> {
        let path = dir.join(name);
        let file = File::create(&path).map_err(|source| at(&path, source))?;
        Ok(Self { path, file: BufWriter::with_capacity(BUFFER_BYTES, file) })
    }

    fn push(&mut self, value: &impl Serialize) -> Result<(), RecordError> {
        let written = serde_json::to_writer(&mut self.file, value).map_err(std::io::Error::from);
        written.and_then(|()| self.file.write_all(b"\n")).map_err(|source| at(&self.path, source))
    }

    fn flush(&mut self) -> Result<(), RecordError> {
        self.file.flush().map_err(|source| at(&self.path, source))
    }
}

fn at(path: &Path, source: std::io::Error) -> RecordError {
    RecordError { path: path.to_owned(), source }
}

/// A run's record, its events yet to be read.
#[derive(Debug)]
pub struct History {
    /// What was run.
    pub run: Run,
    /// What was broken, in the order in which it was mended.
    pub faults: Vec<Fault>,
    /// Who led, in the order in which that was heard; nothing where that was not recorded.
    pub leaders: Vec<Led>,
    path: PathBuf,
    file: BufReader<File>,
}

impl History {
    /// Opens the record in `dir`. Without `run.json` the run was not finished, and cannot be judged.
    pub fn read(dir: &Path) -> Result<Self, ReadError> {
        let run = open(&dir.join(RUN))?;
        let run = serde_json::from_reader(run).map_err(|source| ReadError::Line {
            path: dir.join(RUN),
            line: source.line() as u64,
            source,
        })?;
        let faults = read_all(dir.join(NEMESIS))?;
        let leaders = match read_all(dir.join(LEADERS)) {
            Err(ReadError::Open { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Vec::new()
            }
            read => read?,
        };
        let path = dir.join(HISTORY);
        let file = open(&path)?;
        Ok(Self { run, faults, leaders, path, file })
    }

    /// What clients did and saw, with the number of its line from 1.
    pub fn events(self) -> impl Iterator<Item = Result<(u64, Event), ReadError>> {
        read_lines(self.path, self.file)
    }
}

fn open(path: &Path) -> Result<BufReader<File>, ReadError> {
    let file = File::open(path);
    file.map(|file| BufReader::with_capacity(BUFFER_BYTES, file))
        .map_err(|source| ReadError::Open { path: path.to_owned(), source })
}

fn read_all<T: DeserializeOwned>(path: PathBuf) -> Result<Vec<T>, ReadError> {
    let file = open(&path)?;
    read_lines(path, file).map(|line| line.map(|(_, value)| value)).collect()
}

fn read_lines<T: DeserializeOwned>(
    path: PathBuf,
    mut file: BufReader<File>,
) -> impl Iterator<Item = Result<(u64, T), ReadError>> {
    let (mut line, mut text, mut failed) = (0, Vec::new(), false);
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        text.clear();
        line += 1;
        let read =
            match file.read_until(b'\n', &mut text) {
                Ok(0) => return None,
                Ok(_) => parse(&text)
                    .map(|value| (line, value))
                    .map_err(|source| ReadError::Line { path: path.clone(), line, source }),
                Err(source) => Err(ReadError::Open { path: path.clone(), source }),
            };
        failed = read.is_err();
        Some(read)
    })
}

/// A line without its line feed was cut off, even if what is left of it can be read.
fn parse<T: for<'a> Deserialize<'a>>(text: &[u8]) -> Result<T, serde_json::Error> {
    match text.strip_suffix(b"\n") {
        Some(line) => serde_json::from_slice(line),
        None => Err(serde::de::Error::custom("the line has no end")),
    }
}

#[cfg(test)]
mod tests {
    use super::{HISTORY, History, LEADERS, NEMESIS, RUN, ReadError, Recorder};
    use crate::history::{Answer, Event, EventKind, Fault, Led, Run};

    fn run() -> Run {
        serde_json::from_str(
            r#"{"name":"one","started":"2026-01-01T00:00:00Z","seed":7,"nodes":3,"workloads":["append"],
                "nemeses":[],"duration_s":1,"version":"0","command":"run","healed_at":null}"#,
        )
        .unwrap()
    }

    fn event(recorder: &Recorder, process: u64) -> Event {
        let kind = EventKind::Ok(Answer::Ended);
        Event { at: recorder.now(), process, node: Some(1), kind }
    }

    fn fault() -> Fault {
        Fault {
            from: 1,
            to: 2,
            nemesis: "kill".to_owned(),
            nodes: vec![1],
            what: "SIGKILL".to_owned(),
            effect: None,
            served_after: Some(3),
        }
    }

    #[test]
    fn what_many_threads_record_is_read_back_in_each_ones_order() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(&dir.path().join("new")).unwrap();
        let record = |process: u64, recorder: &Recorder| {
            (0..5_000).for_each(|_| recorder.event(event(recorder, process)));
        };
        std::thread::scope(|threads| {
            for process in 0..4 {
                let recorder = recorder.clone();
                threads.spawn(move || record(process, &recorder));
            }
        });
        recorder.fault(fault());
        let led = Led { at: 5, group: 1, leader: Some(2), term: 3 };
        let unled = Led { leader: None, term: 4, ..led };
        recorder.led(led);
        recorder.led(unled);
        let late = recorder.clone();
        recorder.finish(&run()).unwrap();
        late.event(event(&late, 9));

        let history = History::read(&dir.path().join("new")).unwrap();
        assert_eq!((&history.run, &history.faults), (&run(), &vec![fault()]));
        assert_eq!(history.leaders, [led, unled]);
        let events: Vec<(u64, Event)> = history.events().map(Result::unwrap).collect();
        assert_eq!(events.len(), 20_000);
        assert!(events.iter().zip(1..).all(|((line, _), expected)| *line == expected));
        for process in 0..4 {
            let times = events.iter().filter(|(_, e)| e.process == process).map(|(_, e)| e.at);
            assert!(times.clone().is_sorted() && times.count() == 5_000);
        }
    }

    #[test]
    fn a_record_that_was_not_finished_or_was_damaged_is_refused_by_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(dir.path()).unwrap();
        (0..3).for_each(|_| recorder.event(event(&recorder, 1)));
        let unfinished = History::read(dir.path()).unwrap_err();
        assert!(matches!(&unfinished, ReadError::Open { path, .. } if path.ends_with(RUN)));
        recorder.finish(&run()).unwrap();

        let path = dir.path().join(HISTORY);
        let whole = std::fs::read_to_string(&path).unwrap();
        let damages =
            [(whole[..whole.len() - 1].to_owned(), 3), (whole.replacen("ok", "okay", 1), 1)];
        for (text, line) in damages {
            std::fs::write(&path, text).unwrap();
            let events = History::read(dir.path()).unwrap().events();
            let error = events.filter_map(Result::err).collect::<Vec<_>>();
            assert_eq!(error.len(), 1, "reading stops at the damage");
            let text = error[0].to_string();
            assert!(text.ends_with(&format!("{HISTORY}:{line} is damaged or cut off")), "{text}");
        }
        for name in [LEADERS, NEMESIS] {
            std::fs::write(dir.path().join(name), "{}\n").unwrap();
            assert!(History::read(dir.path()).unwrap_err().to_string().contains(name));
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::remove_file(dir.path().join(LEADERS)).unwrap();
        assert_eq!(History::read(dir.path()).unwrap().leaders, [], "older records have none");
    }
}
