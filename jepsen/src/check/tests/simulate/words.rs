//! What a simulated cluster says, and what is written of its run.

use std::collections::BTreeMap;

use super::{MS, NODES};
use crate::check::overload::OVERLOADED;
use crate::history::{Answer, EventKind, Fault, Nanos, Refusal, Run, Seen};

pub fn acknowledged(messages: &[Seen], duplicate: bool) -> EventKind {
    let (first, last) = (messages.first().unwrap(), messages.last().unwrap());
    EventKind::Ok(Answer::Appended {
        first_seq: first.seq,
        last_seq: last.seq,
        commit_time_us: last.commit_time_us,
        duplicate,
        digest: last.digest.clone(),
    })
}

pub fn refusal(reason: &str, may_have_taken_effect: bool, tail: Option<u64>) -> Refusal {
    Refusal {
        reason: reason.to_owned(),
        message: String::new(),
        may_have_taken_effect,
        retryable: reason == OVERLOADED,
        tail,
    }
}

pub fn failed(reason: &str, tail: Option<u64>) -> EventKind {
    EventKind::Fail(refusal(reason, false, tail))
}

pub fn fault(from: Nanos, to: Nanos) -> Fault {
    Fault {
        from,
        to,
        nemesis: "kill".to_owned(),
        nodes: vec![2],
        what: "SIGKILL".to_owned(),
        effect: Some("the process is gone".to_owned()),
        served_after: Some(MS),
    }
}

pub fn run(healed_at: Nanos) -> Run {
    Run {
        name: "simulated".to_owned(),
        started: "2026-01-01T00:00:00Z".to_owned(),
        seed: 1,
        nodes: NODES,
        workloads: ["append", "retry", "session", "follow", "subscribe", "outcome", "read"]
            .map(str::to_owned)
            .to_vec(),
        nemeses: vec!["kill".to_owned()],
        duration_s: 1,
        version: "0".to_owned(),
        command: "quorate-jepsen run --seed 1".to_owned(),
        healed_at: Some(healed_at),
        replicas: BTreeMap::from([(1, (1..=NODES).collect()), (2, (1..=NODES).collect())]),
        memory_bytes_max: (1..=NODES).map(|node| (node, 64 * 1024 * 1024)).collect(),
        stored: (1..=NODES).map(|node| (node, None)).collect(),
        ..Run::default()
    }
}
