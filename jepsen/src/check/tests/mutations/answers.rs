//! Wrong answers to clients: retries, lanes, streams, outcomes, positions.

use std::collections::{BTreeMap, BTreeSet};

use super::super::simulate::Simulated;
use super::eyes::{acknowledged, alone, answered, appends, change, reads, shown, sightings};
use super::logs::{final_with_two, go_back};
use crate::clock;
use crate::history::{
    Answer, AppendCall, Call, Consistency, Delivered, Event, EventKind, LanePlace, Nanos,
    OutcomeState, Process, ReadCall, Refusal,
};

pub fn retry(run: &mut Simulated, breaks: fn(&mut Answer)) -> bool {
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for (at, _, append) in appends(&run.events) {
        let ids: Vec<&str> =
            append.messages.iter().map(|sent| sent.client_msg_id.as_str()).collect();
        if first.insert(format!("{} {ids:?}", append.sender), at).is_some() {
            change(&mut run.events[at], breaks);
            return true;
        }
    }
    false
}

pub fn move_a_retry(run: &mut Simulated) -> bool {
    retry(run, |answer| {
        if let Answer::Appended { first_seq, last_seq, .. } = answer {
            (*first_seq, *last_seq) = (*first_seq + 1, *last_seq + 1);
        }
    })
}

pub fn delay_a_retry(run: &mut Simulated) -> bool {
    retry(run, |answer| {
        if let Answer::Appended { commit_time_us, .. } = answer {
            *commit_time_us += 1;
        }
    })
}

pub fn renew_a_retry(run: &mut Simulated) -> bool {
    let mut known: BTreeMap<String, bool> = BTreeMap::new();
    for (at, _, append) in appends(&run.events) {
        let (.., duplicate) = acknowledged(&run.events[at]);
        let id = format!("{} {}", append.sender, append.messages[0].client_msg_id);
        let was_new = known.entry(id).or_insert(false);
        if *was_new && duplicate {
            change(&mut run.events[at], |answer| match answer {
                Answer::Appended { duplicate, .. } => *duplicate = false,
                _ => unreachable!("an append was acknowledged"),
            });
            return true;
        }
        *was_new |= !duplicate;
    }
    false
}

pub fn refuse(reason: &str) -> EventKind {
    EventKind::Fail(Refusal {
        reason: reason.to_owned(),
        message: String::new(),
        may_have_taken_effect: false,
        retryable: false,
        tail: None,
    })
}

/// A retry of a message that was sent by itself each time, with one content.
fn refuse_a_retry(run: &mut Simulated, reason: &str) -> bool {
    let mut sent: BTreeMap<_, BTreeSet<Vec<(String, u64)>>> = BTreeMap::new();
    for event in &run.events {
        let EventKind::Invoke(Call::Append(append)) = &event.kind else { continue };
        let batch: Vec<_> =
            append.messages.iter().map(|one| (one.client_msg_id.clone(), one.hash)).collect();
        for (id, _) in &batch {
            let id = (append.conversation.clone(), append.sender.clone(), id.clone());
            sent.entry(id).or_default().insert(batch.clone());
        }
    }
    let mut known = BTreeSet::new();
    let again = appends(&run.events).into_iter().find(|(_, _, append)| {
        let id = append.messages[0].client_msg_id.clone();
        let id = (append.conversation.clone(), append.sender.clone(), id);
        append.messages.len() == 1 && sent[&id].len() == 1 && !known.insert(id)
    });
    let Some((at, ..)) = again else { return false };
    run.events[at].kind = refuse(reason);
    true
}

/// A message is issued when it is sent, and is refused for its age.
fn refuse_a_fresh_one(run: &mut Simulated, refusal: EventKind) -> bool {
    let Some((at, called, _)) = alone(&run.events).pop() else { return false };
    let process = run.events[at].process;
    let began = clock::read_us(&run.run.started).unwrap();
    for event in &mut run.events {
        if let EventKind::Invoke(Call::Append(append)) = &mut event.kind
            && event.process == process
        {
            append.messages[0].issued_at_us = began + called / 1_000;
        }
    }
    run.events[at].kind = refusal;
    true
}

pub fn find_too_old(run: &mut Simulated) -> bool {
    let EventKind::Fail(refusal) = refuse("TOO_OLD") else { return false };
    let refusal = Refusal { may_have_taken_effect: true, ..refusal };
    refuse_a_fresh_one(run, EventKind::Info(refusal))
}

pub fn find_in_future(run: &mut Simulated) -> bool {
    refuse_a_fresh_one(run, refuse("ISSUED_IN_FUTURE"))
}

pub fn conflict_a_retry(run: &mut Simulated) -> bool {
    refuse_a_retry(run, "ID_CONFLICT")
}

pub fn burn_a_retry(run: &mut Simulated) -> bool {
    refuse_a_retry(run, "ID_BURNT")
}

/// Two of a lane are sent the other way round, are not answered, and are sent again so.
pub fn swap_what_is_sent_again(run: &mut Simulated) -> bool {
    let mut placed: Vec<_> = alone(&run.events)
        .into_iter()
        .filter_map(|(at, _, append)| {
            let place = append.lane.clone()?;
            let lane = (append.conversation.clone(), place.session, place.reset);
            (append.messages.len() == 1).then_some((lane, place.position, at, append))
        })
        .collect();
    placed.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let follows = |pair: &&[(_, u64, usize, AppendCall)]| -> bool {
        pair[0].0 == pair[1].0 && pair[0].1 + 1 == pair[1].1
    };
    let Some(pair) = placed.windows(2).find(follows).map(<[_]>::to_vec) else { return false };
    let last = pair[0].2.max(pair[1].2);
    let at = run.events[last].at;
    let mut again = Vec::new();
    for (position, (_, _, answer, append)) in pair.iter().rev().enumerate() {
        let mut kind = run.events[*answer].kind.clone();
        if let EventKind::Ok(Answer::Appended { duplicate, .. }) = &mut kind {
            *duplicate = true;
        }
        let lane = append.lane.clone().map(|lane| LanePlace {
            reset: u64::MAX,
            position: position as u64,
            ..lane
        });
        let call = EventKind::Invoke(Call::Append(AppendCall { lane, ..append.clone() }));
        let process = u64::MAX - position as u64;
        again.extend([call, kind].map(|kind| Event { at, process, node: Some(1), kind }));
    }
    let (first, second) = (run.events[pair[0].2].process, run.events[pair[1].2].process);
    lane_place(run, first).position = pair[1].1;
    lane_place(run, second).position = pair[0].1;
    for (_, _, answer, _) in &pair {
        let EventKind::Fail(refusal) = refuse("OUTCOME_UNKNOWN") else { return false };
        run.events[*answer].kind =
            EventKind::Info(Refusal { may_have_taken_effect: true, ..refusal });
    }
    run.events.splice(last + 1..last + 1, again);
    true
}

pub fn lane_place(run: &mut Simulated, process: Process) -> &mut LanePlace {
    let call = run.events.iter_mut().find_map(|event| match &mut event.kind {
        EventKind::Invoke(Call::Append(append)) if event.process == process => append.lane.as_mut(),
        _ => None,
    });
    call.unwrap()
}

pub fn swap_in_a_lane(run: &mut Simulated) -> bool {
    let in_lane = |(at, _, append): (usize, Nanos, AppendCall)| {
        let place = append.lane?;
        Some((
            (append.conversation, place.session, place.reset),
            run.events[at].process,
            place.position,
        ))
    };
    let mut placed: Vec<_> = alone(&run.events).into_iter().filter_map(in_lane).collect();
    placed.sort();
    let pair = placed.windows(2).find(|pair| pair[0].0 == pair[1].0).map(<[_]>::to_vec);
    let Some(pair) = pair else { return false };
    lane_place(run, pair[0].1).position = pair[1].2;
    lane_place(run, pair[1].1).position = pair[0].2;
    true
}

/// The first append of a lane fails after all, where a later one was acknowledged.
pub fn go_on_behind_a_failure(run: &mut Simulated) -> bool {
    let mut lanes: BTreeMap<_, Vec<(u64, usize)>> = BTreeMap::new();
    for (at, _, append) in alone(&run.events) {
        if let Some(place) = append.lane {
            let lane = (append.conversation, place.session, place.reset);
            lanes.entry(lane).or_default().push((place.position, at));
        }
    }
    let Some(lane) = lanes.values_mut().find(|lane| lane.len() > 1) else { return false };
    lane.sort_unstable();
    run.events[lane[0].1].kind = refuse("LANE_BROKEN");
    true
}

pub fn deliveries(run: &Simulated) -> Vec<usize> {
    let is_delivery = |kind: &EventKind| match kind {
        EventKind::Deliver(delivery) => matches!(delivery.what, Delivered::Messages(_)),
        _ => false,
    };
    let all = run.events.iter().enumerate().filter(|(_, event)| is_delivery(&event.kind));
    all.map(|(at, _)| at).collect()
}

pub fn skip_a_delivery(run: &mut Simulated) -> bool {
    // The last of a stream would be missed at the end only.
    let Some(at) = deliveries(run).first().copied() else { return false };
    run.events.remove(at);
    true
}

pub fn repeat_a_delivery(run: &mut Simulated) -> bool {
    let Some(at) = deliveries(run).last().copied() else { return false };
    let event = run.events[at].clone();
    run.events.insert(at, event);
    true
}

pub fn take_up_elsewhere(run: &mut Simulated) -> bool {
    let again = run.events.iter_mut().find_map(|event| match &mut event.kind {
        EventKind::Deliver(delivery) => match &mut delivery.what {
            Delivered::AddedAgain { from_seq } => Some(from_seq),
            _ => None,
        },
        _ => None,
    });
    again.map(|from| *from += 1).is_some()
}

pub fn catch_up_early(run: &mut Simulated) -> bool {
    let caught_up = run.events.iter_mut().find_map(|event| match &mut event.kind {
        EventKind::Deliver(delivery) => match &mut delivery.what {
            Delivered::CaughtUp { next_seq } => Some(next_seq),
            _ => None,
        },
        _ => None,
    });
    caught_up.map(|next| *next += 1).is_some()
}

pub fn stop_delivering(run: &mut Simulated) -> bool {
    let healed = run.run.healed_at.unwrap();
    let late = deliveries(run).into_iter().any(|at| run.events[at].at > healed);
    run.events.retain(|event| !(event.at > healed && matches!(event.kind, EventKind::Deliver(_))));
    late
}

pub fn refuse_a_stream(run: &mut Simulated) -> bool {
    end_a_stream(run, "PROTOCOL_VIOLATION")
}

pub fn end_a_stream(run: &mut Simulated, reason: &str) -> bool {
    let ended = |kind: &EventKind| matches!(kind, EventKind::Ok(Answer::Ended));
    let Some(event) = run.events.iter_mut().find(|event| ended(&event.kind)) else { return false };
    event.kind = refuse(reason);
    true
}

pub fn deliver_uncommitted(run: &mut Simulated) -> bool {
    let Some(at) = deliveries(run).last().copied() else { return false };
    if let EventKind::Deliver(delivery) = &mut run.events[at].kind
        && let Delivered::Messages(messages) = &mut delivery.what
    {
        messages.last_mut().unwrap().client_msg_id = "rolled-back".to_owned();
    }
    true
}

pub fn outcome(run: &mut Simulated, wanted: OutcomeState, told: (OutcomeState, u64)) -> bool {
    let acknowledged: Vec<(Nanos, String, String)> = appends(&run.events)
        .into_iter()
        .map(|(at, _, a)| (run.events[at].at, a.sender, a.messages[0].client_msg_id.clone()))
        .collect();
    for (at, called, call) in answered(&run.events) {
        let Call::Outcome(query) = call else { continue };
        let before = acknowledged.iter().any(|(at, sender, id)| {
            *at < called && *sender == query.sender && *id == query.client_msg_id
        });
        let changed = change(&mut run.events[at], |answer| match answer {
            Answer::Outcome { state, seq } if *state == wanted && before => {
                (*state, *seq) = (told.0, *seq + told.1);
                true
            }
            _ => false,
        });
        if changed {
            return true;
        }
    }
    false
}

pub fn misplace_an_outcome(run: &mut Simulated) -> bool {
    outcome(run, OutcomeState::Committed, (OutcomeState::Committed, 1))
}

pub fn burn_a_committed(run: &mut Simulated) -> bool {
    outcome(run, OutcomeState::Committed, (OutcomeState::Burnt, 0))
}

pub fn deny_a_committed(run: &mut Simulated) -> bool {
    outcome(run, OutcomeState::Committed, (OutcomeState::NotCommitted, 0))
}

pub fn undercut_at_least(run: &mut Simulated) -> bool {
    let reads = reads(&run.events, |read| matches!(read.consistency, Consistency::AtLeast(1..)));
    let Some((at, _, read)) = reads.into_iter().next() else { return false };
    let Consistency::AtLeast(seq) = read.consistency else { return false };
    let (messages, tail, _) = shown(&mut run.events[at]);
    *tail = seq;
    messages.retain(|seen| seen.seq < seq);
    true
}

pub fn is_bounded(read: &ReadCall) -> bool {
    matches!(read.consistency, Consistency::MaxStalenessMs(_))
}

pub fn hide_the_age(run: &mut Simulated) -> bool {
    let Some((at, ..)) = reads(&run.events, is_bounded).pop() else { return false };
    shown(&mut run.events[at]).2.age_ms = None;
    true
}

pub fn exceed_the_bound(run: &mut Simulated) -> bool {
    let Some((at, ..)) = reads(&run.events, is_bounded).pop() else { return false };
    shown(&mut run.events[at]).2.age_ms = Some(21);
    true
}

pub fn show_the_past(run: &mut Simulated) -> bool {
    go_back(run, is_bounded, 2_000_000)
}

pub fn claim_an_index(run: &mut Simulated) -> bool {
    let reads = reads(&run.events, |_| true);
    for (at, _, read) in &reads {
        let (_, tail, position) = shown(&mut run.events[*at]);
        let (tail, index) = (*tail, position.applied_index);
        let other = reads.iter().find(|(other, _, call)| {
            call.conversation == read.conversation && *shown(&mut run.events[*other]).1 != tail
        });
        if let Some((other, ..)) = other {
            shown(&mut run.events[*other]).2.applied_index = index;
            return true;
        }
    }
    false
}

pub fn hide_the_position(run: &mut Simulated) -> bool {
    let Some((at, ..)) = reads(&run.events, |_| true).pop() else { return false };
    *shown(&mut run.events[at]).2 =
        crate::history::Position { node: 0, group: 0, applied_index: 0, age_ms: None };
    true
}

pub fn lower_an_index(run: &mut Simulated) -> bool {
    // Node 2 was killed, and may go back.
    let finals = reads(&run.events, |read| read.is_final);
    let mut nodes = finals.iter().filter(|(at, ..)| run.events[*at].node == Some(3));
    let Some((at, ..)) = nodes.next_back() else { return false };
    let (_, _, position) = shown(&mut run.events[*at]);
    position.applied_index -= 1;
    let group = position.group;
    // Somebody must have been told of the higher index before.
    let mut before = finals.iter().filter(|(other, ..)| other < at);
    before.any(|(other, ..)| {
        run.events[*other].node == Some(3) && shown(&mut run.events[*other]).2.group == group
    })
}

pub fn turn_back_time(run: &mut Simulated) -> bool {
    let Some(at) = final_with_two(run) else { return false };
    let second = shown(&mut run.events[at]).0[1].clone();
    for (_, messages) in sightings(&mut run.events) {
        let same = messages.iter_mut().filter(|seen| seen.client_msg_id == second.client_msg_id);
        same.for_each(|seen| seen.commit_time_us = 0);
    }
    second.commit_time_us > 0
}
