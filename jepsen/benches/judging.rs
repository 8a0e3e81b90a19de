//! How long judging takes, and how much memory: a valid history of as many operations as the first argument says (two
//! million if it says nothing), recorded to a directory and judged from there.
//!
//! `cargo bench -p quorate-jepsen --bench judging -- 2000000`

use std::time::Duration;

use quorate_jepsen::history::{
    Answer, AppendCall, Call, Consistency, Delivered, Delivery, Event, EventKind, Fault,
    FollowCall, Nanos, OutcomeCall, OutcomeState, Position, Process, ReadCall, Run, Seen, Sent,
};
use quorate_jepsen::judge::judge;
use quorate_jepsen::model::Model;
use quorate_jepsen::record::Recorder;
use tokio::time::Instant;

const CONVERSATIONS: usize = 200;
const NODES: u32 = 3;
/// What one read gets.
const PAGE: usize = 10;

fn main() {
    // Cargo passes --bench.
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let count: u64 = count.unwrap_or(2_000_000);
    let dir = std::env::temp_dir().join(format!("quorate-judging-{}", std::process::id()));
    let began = Instant::now();
    record(&dir, count);
    println!("recorded {count} operations in {:.1} s, peak {} MiB", secs(began.elapsed()), peak());
    let began = Instant::now();
    drop(Model::load(&dir).expect("it was recorded just now"));
    println!("loaded in {:.1} s, peak {} MiB", secs(began.elapsed()), peak());
    let began = Instant::now();
    let results = judge(&dir).expect("the directory can be written to");
    println!(
        "judged in {:.1} s, peak {} MiB: {}, {} violations, {:?}",
        secs(began.elapsed()),
        peak(),
        results.verdict.word(),
        results.violations,
        results.doubts
    );
    for checked in &results.checkers {
        println!("  {:<14} {:>6.2} s", checked.checker, secs(checked.took));
    }
    std::fs::remove_dir_all(&dir).expect("the directory was made here");
}

fn secs(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// Peak resident memory so far, in MiB; 0 where the system does not say.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Writes what clients of a correct cluster do: 6 appends, 3 reads and an outcome query in 10 operations.
struct Writer {
    recorder: Recorder,
    logs: Vec<Vec<Seen>>,
    now: Nanos,
}

impl Writer {
    fn event(&mut self, process: Process, kind: EventKind) {
        self.now += 10_000;
        self.recorder.event(Event { at: self.now, process, node: Some(1), kind });
    }

    fn call(&mut self, process: Process, call: Call, answer: Answer) {
        self.event(process, EventKind::Invoke(call));
        self.event(process, EventKind::Ok(answer));
    }

    fn append(&mut self, nth: u64, at: usize) {
        let id = format!("message-{nth:010}");
        let call = Call::Append(AppendCall {
            conversation: name(at),
            sender: format!("sender-{}", nth % 20),
            messages: vec![Sent { client_msg_id: id.clone(), issued_at_us: 1, hash: nth }],
            expected_tail: None,
            lane: None,
        });
        let seq = self.logs[at].len() as u64 + 1;
        let seen = Seen {
            seq,
            sender: format!("sender-{}", nth % 20),
            client_msg_id: id,
            hash: nth,
            commit_time_us: self.now / 1_000,
            digest: format!("{nth:064x}"),
        };
        let (commit_time_us, digest) = (seen.commit_time_us, seen.digest.clone());
        self.logs[at].push(seen);
        let (first_seq, last_seq, duplicate) = (seq, seq, false);
        let answer = Answer::Appended { first_seq, last_seq, commit_time_us, duplicate, digest };
        self.call(nth, call, answer);
    }

    fn read(&mut self, process: Process, at: usize, node: u32, how: (Consistency, usize, bool)) {
        let (consistency, from, is_final) = how;
        let call = Call::Read(ReadCall {
            conversation: name(at),
            consistency,
            from_seq: from as u64 + 1,
            limit: if is_final { 1_000 } else { PAGE as u64 },
            of_the_end: false,
            is_final,
        });
        let log = &self.logs[at];
        let limit = if is_final { 1_000 } else { PAGE };
        let answer = Answer::Read {
            messages: log.iter().skip(from).take(limit).cloned().collect(),
            first_seq: 1,
            tail: log.len() as u64 + 1,
            position: Position {
                node,
                group: at as u64,
                applied_index: log.len() as u64,
                age_ms: Some(0),
            },
        };
        self.call(process, call, answer);
    }

    fn query(&mut self, process: Process, at: usize) {
        let Some(seen) = self.logs[at].last().cloned() else { return };
        let call = Call::Outcome(OutcomeCall {
            conversation: name(at),
            sender: seen.sender,
            client_msg_id: seen.client_msg_id,
            issued_at_us: 1,
            settle: false,
        });
        let answer = Answer::Outcome { state: OutcomeState::Committed, seq: seen.seq };
        self.call(process, call, answer);
    }
}

fn name(at: usize) -> String {
    format!("room-{at}")
}

fn record(dir: &std::path::Path, count: u64) {
    let recorder = Recorder::create(dir).expect("the directory can be made");
    let logs = vec![Vec::new(); CONVERSATIONS];
    let mut writer = Writer { recorder, logs, now: 0 };
    let follower = count + 1;
    let from = (0..CONVERSATIONS).map(|at| (name(at), 1)).collect();
    let follow = Call::Follow(FollowCall { from, is_subscription: false, without_library: false });
    writer.event(follower, EventKind::Invoke(follow));
    for nth in 1..=count {
        let at = (nth as usize * 7) % CONVERSATIONS;
        let from = writer.logs[at].len().saturating_sub(PAGE);
        match nth % 10 {
            0..6 => {
                writer.append(nth, at);
                let messages = writer.logs[at][writer.logs[at].len() - 1..].to_vec();
                let what = Delivered::Messages(messages);
                let delivery = Delivery { conversation: name(at), what };
                writer.event(follower, EventKind::Deliver(delivery));
            }
            6 | 7 => writer.read(nth, at, 1, (Consistency::Linearizable, from, false)),
            8 => writer.read(nth, at, 2, (Consistency::MaxStalenessMs(100), from, false)),
            _ => writer.query(nth, at),
        }
    }
    let healed_at = writer.now;
    writer.event(follower, EventKind::Ok(Answer::Ended));
    let mut process = follower;
    for at in 0..CONVERSATIONS {
        for from in (0..writer.logs[at].len()).step_by(1_000) {
            process += 1;
            writer.read(process, at, 1, (Consistency::Linearizable, from, true));
            for node in 1..=NODES {
                process += 1;
                let last = Consistency::AtLeast(writer.logs[at].len() as u64);
                writer.read(process, at, node, (last, from, true));
            }
        }
    }
    writer.recorder.fault(Fault {
        from: 1,
        to: 2,
        nemesis: "kill".to_owned(),
        nodes: vec![1],
        what: "SIGKILL".to_owned(),
        effect: Some("gone".to_owned()),
        served_after: Some(1),
    });
    writer.recorder.finish(&run(healed_at)).expect("it can be written");
}

fn run(healed_at: Nanos) -> Run {
    Run {
        name: "judging".to_owned(),
        started: "2026-01-01T00:00:00Z".to_owned(),
        seed: 0,
        nodes: NODES,
        workloads: vec!["append".to_owned()],
        nemeses: vec!["kill".to_owned()],
        duration_s: 1,
        version: "0".to_owned(),
        command: "cargo bench -p quorate-jepsen --bench judging".to_owned(),
        healed_at: Some(healed_at),
        ..Run::default()
    }
}
