//! A cluster that serves no longer, refuses for good, or falls: what its nodes did beside the answers of clients.

use std::collections::{BTreeMap, BTreeSet};

use super::super::simulate::Simulated;
use super::answers::{end_a_stream, refuse};
use super::eyes::appends;
use crate::check::overload::{DISK_LOW, MEMORY_BYTES_MAX, OVERLOADED};
use crate::history::{AppendCall, Call, ENDED_BY_ITSELF, EventKind, Fault, Nanos, Process};

/// All its appends of the healed phase fail. That begins early here, so that there are a few.
pub fn break_a_session(run: &mut Simulated) -> bool {
    let ended = appends(&run.events).into_iter();
    let in_session =
        |append: &AppendCall| append.lane.as_ref().is_some_and(|lane| lane.session == 1);
    let of_session: Vec<_> = ended.filter(|(.., append)| in_session(append)).collect();
    let Some(last) = of_session.len().checked_sub(6) else { return false };
    let healed = of_session[last..].iter().map(|(_, called, _)| *called).min();
    run.run.healed_at = healed;
    let mut called: BTreeSet<Process> = BTreeSet::new();
    for event in &mut run.events {
        match &event.kind {
            EventKind::Invoke(Call::Append(append)) if in_session(append) => {
                let is_healed = Some(event.at) >= healed;
                called.extend(is_healed.then_some(event.process));
            }
            // Also what was refused for its content, and so was served.
            EventKind::Ok(_) | EventKind::Fail(_) if called.contains(&event.process) => {
                event.kind = refuse("LANE_BROKEN");
            }
            _ => {}
        }
    }
    true
}

/// A conversation serves the first quarter of its calls, and then none, though nothing is broken all the while.
pub fn stop_serving(run: &mut Simulated) -> bool {
    let mut called: BTreeMap<Process, Nanos> = BTreeMap::new();
    let mut ended: Vec<(Nanos, usize)> = Vec::new();
    for (at, event) in run.events.iter().enumerate() {
        let is_first = |name: &str| name == "room-0";
        match &event.kind {
            EventKind::Invoke(Call::Append(call)) if is_first(&call.conversation) => {
                called.insert(event.process, event.at);
            }
            EventKind::Invoke(Call::Read(call))
                if is_first(&call.conversation) && !call.is_final =>
            {
                called.insert(event.process, event.at);
            }
            EventKind::Ok(_) | EventKind::Fail(_) => {
                ended.extend(called.remove(&event.process).map(|called| (called, at)));
            }
            _ => {}
        }
    }
    ended.sort_unstable();
    run.run.healed_at = Some(0);
    for (_, at) in ended.iter().skip(ended.len() / 4) {
        run.events[*at].kind = refuse("NO_LEADER");
    }
    ended.len() >= 40
}

pub fn serve_late(run: &mut Simulated) -> bool {
    run.faults[0].served_after = Some(60_000_000_000);
    true
}

fn forbid(run: &mut Simulated, reason: &str) -> bool {
    let refused = run.events.iter_mut().find_map(|event| match &mut event.kind {
        EventKind::Fail(refusal) if refusal.retryable => Some(refusal),
        _ => None,
    });
    let Some(refusal) = refused else { return false };
    (refusal.retryable, refusal.reason) = (false, reason.to_owned());
    true
}

pub fn forbid_a_retry(run: &mut Simulated) -> bool {
    forbid(run, OVERLOADED)
}

pub fn forbid_a_retry_for_disk(run: &mut Simulated) -> bool {
    forbid(run, DISK_LOW)
}

pub fn forbid_to_follow_again(run: &mut Simulated) -> bool {
    end_a_stream(run, OVERLOADED)
}

pub fn take_all_memory(run: &mut Simulated) -> bool {
    run.run.memory_bytes_max.insert(2, MEMORY_BYTES_MAX + 1);
    true
}

pub fn store_a_wrong_digest(run: &mut Simulated) -> bool {
    run.run.stored.insert(2, Some("room-1: the digest of seq 4 is another".to_owned()));
    true
}

pub fn end_by_itself(run: &mut Simulated) -> bool {
    end(run, "signal 9")
}

pub fn give_up(run: &mut Simulated) -> bool {
    end(run, "exit code 1")
}

fn end(run: &mut Simulated, how: &str) -> bool {
    let nemesis = ENDED_BY_ITSELF.to_owned();
    let fault = Fault { nemesis, what: how.to_owned(), ..run.faults[0].clone() };
    run.faults.push(fault);
    true
}

pub fn give_up_replacing(run: &mut Simulated) -> bool {
    run.run.unreplaced.insert(2, "it was not replaced in time".to_owned());
    true
}

pub fn panic(run: &mut Simulated) -> bool {
    run.run.panics.insert(2, "thread 'main' panicked at src/main.rs:1:1:".to_owned());
    true
}
