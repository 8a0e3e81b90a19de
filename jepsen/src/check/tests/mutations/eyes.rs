//! What stands in a history: the eyes of the mutations.

use std::collections::BTreeMap;

use crate::history::{
    Answer, AppendCall, Call, Delivered, Event, EventKind, Nanos, Position, Process, ReadCall, Seen,
};

/// Each answer with its call and the time of that.
pub fn answered(events: &[Event]) -> Vec<(usize, Nanos, Call)> {
    let mut calls: BTreeMap<Process, (Nanos, Call)> = BTreeMap::new();
    let mut answers = Vec::new();
    for (at, event) in events.iter().enumerate() {
        match &event.kind {
            EventKind::Invoke(call) => {
                calls.insert(event.process, (event.at, call.clone()));
            }
            EventKind::Ok(_) => {
                let (called, call) = calls.remove(&event.process).unwrap();
                answers.push((at, called, call));
            }
            _ => {}
        }
    }
    answers
}

pub fn appends(events: &[Event]) -> Vec<(usize, Nanos, AppendCall)> {
    let only = |(at, called, call)| match call {
        Call::Append(append) => Some((at, called, append)),
        _ => None,
    };
    answered(events).into_iter().filter_map(only).collect()
}

pub fn reads(
    events: &[Event],
    wanted: impl Fn(&ReadCall) -> bool,
) -> Vec<(usize, Nanos, ReadCall)> {
    let only = |(at, called, call)| match call {
        Call::Read(read) if wanted(&read) => Some((at, called, read)),
        _ => None,
    };
    answered(events).into_iter().filter_map(only).collect()
}

/// Everything that shows messages, with its place.
pub fn sightings(events: &mut [Event]) -> impl Iterator<Item = (usize, &mut Vec<Seen>)> {
    events.iter_mut().enumerate().filter_map(|(at, event)| match &mut event.kind {
        EventKind::Ok(Answer::Read { messages, .. }) => Some((at, messages)),
        EventKind::Deliver(delivery) => match &mut delivery.what {
            Delivered::Messages(messages) => Some((at, messages)),
            _ => None,
        },
        _ => None,
    })
}

/// The fields of a read's answer, and of an append's.
pub fn shown(event: &mut Event) -> (&mut Vec<Seen>, &mut u64, &mut Position) {
    match &mut event.kind {
        EventKind::Ok(Answer::Read { messages, tail, position, .. }) => (messages, tail, position),
        other => panic!("{other:?} is no read"),
    }
}

pub fn acknowledged(event: &Event) -> (u64, u64, bool) {
    match &event.kind {
        EventKind::Ok(Answer::Appended { first_seq, last_seq, duplicate, .. }) => {
            (*first_seq, *last_seq, *duplicate)
        }
        other => panic!("{other:?} is no acknowledgement"),
    }
}

/// An acknowledgement of a single message that nobody else tried to append.
pub fn alone(events: &[Event]) -> Vec<(usize, Nanos, AppendCall)> {
    let mut attempts: BTreeMap<String, u64> = BTreeMap::new();
    for event in events {
        if let EventKind::Invoke(Call::Append(append)) = &event.kind {
            for sent in &append.messages {
                *attempts.entry(sent.client_msg_id.clone()).or_insert(0) += 1;
            }
        }
    }
    let mut appends = appends(events);
    appends.retain(|(.., append)| {
        append.messages.len() == 1 && attempts[&append.messages[0].client_msg_id] == 1
    });
    appends
}

pub fn change<T>(event: &mut Event, of: impl FnOnce(&mut Answer) -> T) -> T {
    match &mut event.kind {
        EventKind::Ok(answer) => of(answer),
        other => panic!("{other:?} is no answer"),
    }
}
