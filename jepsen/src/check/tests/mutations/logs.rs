//! Wrong logs: what is read is not what was written.

use super::super::simulate::Simulated;
use super::eyes::{acknowledged, alone, appends, change, reads, shown, sightings};
use crate::history::{
    Answer, AppendCall, Call, Consistency, EventKind, Nanos, ReadCall, Refusal, Seen,
};

/// Takes the last message out of every answer that comes after its acknowledgement's.
pub fn lose_the_last(run: &mut Simulated) -> bool {
    let ends = |run: &mut Simulated, conversation: &str| {
        let finals = reads(&run.events, |r| r.is_final && r.conversation == conversation);
        let tail = finals.iter().map(|(at, ..)| *shown(&mut run.events[*at]).1).max();
        (finals, tail.unwrap())
    };
    for (at, _, append) in appends(&run.events) {
        let last_seq = acknowledged(&run.events[at]).1;
        let (finals, end) = ends(run, &append.conversation);
        if last_seq + 1 != end {
            continue;
        }
        for (at, ..) in finals {
            let (messages, tail, _) = shown(&mut run.events[at]);
            messages.retain(|seen| seen.seq != last_seq);
            *tail -= 1;
        }
        return true;
    }
    false
}

pub fn replace_one(run: &mut Simulated) -> bool {
    let Some((at, _, append)) = alone(&run.events).pop() else { return false };
    let (seq, ..) = acknowledged(&run.events[at]);
    for (at, ..) in reads(&run.events, |r| r.is_final && r.conversation == append.conversation) {
        for seen in shown(&mut run.events[at]).0.iter_mut().filter(|seen| seen.seq == seq) {
            seen.client_msg_id = "another".to_owned();
        }
    }
    true
}

pub fn final_with_two(run: &Simulated) -> Option<usize> {
    let finals = reads(&run.events, |read| read.is_final);
    let longest = |at: &usize| match &run.events[*at].kind {
        EventKind::Ok(Answer::Read { messages, .. }) => messages.len(),
        _ => 0,
    };
    finals.into_iter().map(|(at, ..)| at).rfind(|at| longest(at) >= 2)
}

pub fn change_a_digest(run: &mut Simulated) -> bool {
    let Some(at) = final_with_two(run) else { return false };
    shown(&mut run.events[at]).0[1].digest = format!("{:064x}", 1);
    true
}

pub fn swap_two(run: &mut Simulated) -> bool {
    let Some(at) = final_with_two(run) else { return false };
    let (messages, ..) = shown(&mut run.events[at]);
    (messages[0].seq, messages[1].seq) = (messages[1].seq, messages[0].seq);
    messages.swap(0, 1);
    true
}

pub fn reuse_a_seq(run: &mut Simulated) -> bool {
    let Some((at, ..)) = alone(&run.events).pop() else { return false };
    change(&mut run.events[at], |answer| match answer {
        Answer::Appended { first_seq, last_seq, .. } => {
            let is_first = *first_seq == 1;
            (*first_seq, *last_seq) = (1, 1);
            !is_first
        }
        _ => false,
    })
}

pub fn skip_in_a_read(run: &mut Simulated) -> bool {
    let mut answers = reads(&run.events, |_| true).into_iter();
    answers.any(|(at, ..)| {
        let (messages, ..) = shown(&mut run.events[at]);
        messages.len() >= 3 && messages.remove(1).seq > 0
    })
}

/// One that lacks its first would begin too late.
pub fn cut_a_read_of_the_end(run: &mut Simulated) -> bool {
    let mut answers = reads(&run.events, |read| read.of_the_end).into_iter();
    answers.any(|(at, ..)| {
        let (messages, ..) = shown(&mut run.events[at]);
        messages.len() >= 2 && messages.pop().is_some()
    })
}

pub fn stretch_a_batch(run: &mut Simulated) -> bool {
    let Some((at, ..)) = appends(&run.events).pop() else { return false };
    change(&mut run.events[at], |answer| match answer {
        Answer::Appended { last_seq, .. } => *last_seq += 1,
        _ => unreachable!("an append was acknowledged"),
    });
    true
}

pub fn invent_one(run: &mut Simulated) -> bool {
    let Some((_, messages)) = sightings(&mut run.events).find(|(_, m)| !m.is_empty()) else {
        return false;
    };
    messages[0].client_msg_id = "nobody's".to_owned();
    true
}

/// The call of an append moves behind the first sighting of its message.
pub fn send_late(run: &mut Simulated) -> bool {
    let Some((at, called, append)) = alone(&run.events).into_iter().next() else { return false };
    let id = &append.messages[0].client_msg_id;
    let seen = sightings(&mut run.events).find(|(_, m)| m.iter().any(|s| s.client_msg_id == *id));
    let seen = seen.map(|(at, _)| at).unwrap();
    let shown_at = run.events[seen].at;
    run.events[at].at = run.events[at].at.max(shown_at + 2);
    let call = run.events.iter_mut().find(|event| event.at == called).unwrap();
    call.at = shown_at + 1;
    true
}

pub fn flip_a_bit(run: &mut Simulated) -> bool {
    let Some(at) = final_with_two(run) else { return false };
    shown(&mut run.events[at]).0[0].hash ^= 1;
    true
}

pub fn fail_a_success(run: &mut Simulated) -> bool {
    let Some((at, ..)) = alone(&run.events).pop() else { return false };
    run.events[at].kind = EventKind::Fail(Refusal {
        reason: "NO_LEADER".to_owned(),
        message: String::new(),
        may_have_taken_effect: false,
        retryable: false,
        tail: None,
    });
    true
}

/// A read at `consistency` shows the state before the last append that was acknowledged before its call.
pub fn go_back(run: &mut Simulated, consistency: fn(&ReadCall) -> bool, slack: Nanos) -> bool {
    let appends = appends(&run.events);
    let reads = reads(&run.events, |read| !read.is_final && consistency(read));
    for (at, called, read) in reads {
        let before = appends.iter().filter(|(ack, _, append)| {
            append.conversation == read.conversation && run.events[*ack].at + slack < called
        });
        let seqs = before.map(|(ack, ..)| acknowledged(&run.events[*ack]).0);
        let Some(seq) = seqs.max() else { continue };
        let (messages, tail, position) = shown(&mut run.events[at]);
        messages.retain(|seen| seen.seq < seq);
        *tail = seq;
        position.age_ms = position.age_ms.map(|_| 0);
        return true;
    }
    false
}

pub fn read_the_past(run: &mut Simulated) -> bool {
    go_back(run, |read| read.consistency == Consistency::Linearizable, 0)
}

/// An append that was acknowledged moves, call and all, behind an acknowledgement of a higher seq.
pub fn acknowledge_before_others(run: &mut Simulated) -> bool {
    let alone = alone(&run.events);
    for (at, called, append) in &alone {
        let (seq, ..) = acknowledged(&run.events[*at]);
        let later = alone.iter().find(|(other, _, call)| {
            call.conversation == append.conversation && acknowledged(&run.events[*other]).0 > seq
        });
        let Some((other, ..)) = later else { continue };
        let end = run.events[*other].at;
        run.events[*at].at = end + 2;
        run.events.iter_mut().find(|event| event.at == *called).unwrap().at = end + 1;
        return true;
    }
    false
}

pub fn read_half_a_batch(run: &mut Simulated) -> bool {
    let batches = appends(&run.events).into_iter().filter(|(.., a)| a.messages.len() == 3);
    let whole: Vec<_> = batches
        .filter(|(.., batch)| {
            run.events.iter().all(|event| match &event.kind {
                EventKind::Invoke(Call::Append(other)) => {
                    let ids = |a: &AppendCall| -> Vec<String> {
                        a.messages.iter().map(|sent| sent.client_msg_id.clone()).collect()
                    };
                    let shares = ids(other).iter().any(|id| ids(batch).contains(id));
                    !shares || ids(other) == ids(batch)
                }
                _ => true,
            })
        })
        .collect();
    for (ack, _, batch) in whole {
        let (first, ..) = acknowledged(&run.events[ack]);
        let same = |read: &ReadCall| !read.is_final && read.conversation == batch.conversation;
        for (at, ..) in reads(&run.events, same) {
            let (messages, tail, _) = shown(&mut run.events[at]);
            if *tail > first {
                *tail = first + 1;
                messages.retain(|seen| seen.seq <= first);
                return true;
            }
        }
    }
    false
}

pub fn repeat_one(run: &mut Simulated) -> bool {
    let Some(at) = final_with_two(run) else { return false };
    let (messages, ..) = shown(&mut run.events[at]);
    messages[1] = Seen { seq: messages[1].seq, ..messages[0].clone() };
    true
}

pub fn repeat_a_content(run: &mut Simulated) -> bool {
    let Some(at) = final_with_two(run) else { return false };
    let (messages, ..) = shown(&mut run.events[at]);
    messages[1].hash = messages[0].hash;
    true
}
