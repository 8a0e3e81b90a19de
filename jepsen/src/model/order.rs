//! The order of each conversation, as far as anything shows it.
//!
//! What the reads at the end show counts most, then what any read or delivery showed, then acknowledgements, then
//! outcome queries. Where these contradict each other the checkers of order and duplicates say so; all others go by
//! what counts most.

use super::{Ending, Key, Model, Name, Read, ReadAnswer, RecordId};
use crate::history::Consistency::Linearizable;
use crate::history::{Nanos, OutcomeState};

/// What stands at a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The conversation.
    pub conversation: Name,
    /// The seq.
    pub seq: u64,
    /// What shows it.
    pub source: Source,
    /// The message.
    pub key: Key,
    /// As it was seen; none if it was not.
    pub record: Option<RecordId>,
}

/// What shows that a message stands at a seq, from what counts most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A read of everything at the end.
    Final,
    /// A read or a delivery.
    Seen,
    /// An acknowledgement.
    Acknowledged,
    /// An outcome query.
    Told,
}

/// What the reads at the end showed of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalRead {
    /// What each replica showed, by node.
    pub replicas: Vec<FinalReplica>,
}

/// What one replica showed at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalReplica {
    /// The node.
    pub node: u32,
    /// The lowest seq that can be read.
    pub first_seq: u64,
    /// The seq that the next message will get.
    pub tail: u64,
    /// Whether its answers hold all of `[first_seq, tail)`.
    pub is_complete: bool,
    /// Whether it was asked for everything acknowledged before: at the `LINEARIZABLE` level.
    pub is_linearizable: bool,
    /// When its first page was asked for.
    pub called: Nanos,
}

impl FinalRead {
    /// The lowest seq and the tail of the longest complete read; none if there is no complete read, and nothing can be
    /// said of what the conversation lacks.
    pub fn bounds(&self) -> Option<(u64, u64)> {
        let complete = self.replicas.iter().filter(|replica| replica.is_complete);
        complete.map(|replica| (replica.first_seq, replica.tail)).max_by_key(|(_, tail)| *tail)
    }

    /// A complete read that has to hold everything that was committed before `at`: what it lacks is lost.
    pub fn binding(&self, at: Nanos) -> Option<&FinalReplica> {
        let binds = |replica: &&FinalReplica| {
            replica.is_complete && replica.is_linearizable && at < replica.called
        };
        self.replicas.iter().find(binds)
    }
}

impl Model {
    /// Everything that stands anywhere, by conversation and seq.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// What stands at a seq.
    pub fn place(&self, conversation: Name, seq: u64) -> Option<&Place> {
        let at = self
            .places
            .binary_search_by(|place| (place.conversation, place.seq).cmp(&(conversation, seq)));
        at.ok().map(|at| &self.places[at])
    }

    /// Where a message stands; none if nothing shows it.
    pub fn seq_of(&self, key: Key) -> Option<u64> {
        self.seqs[key as usize]
    }

    /// What the reads at the end showed.
    pub fn final_read(&self, conversation: Name) -> &FinalRead {
        &self.finals[conversation as usize]
    }

    /// Conversations with reads at the end.
    pub fn finals(&self) -> impl Iterator<Item = (Name, &FinalRead)> {
        (0..).zip(&self.finals).filter(|(_, read)| !read.replicas.is_empty())
    }

    pub(super) fn find_order(&mut self) {
        self.finals = final_reads(self);
        let mut places = Vec::new();
        let place = |source, key, seq, record| Place {
            conversation: self.conversation_of(key),
            seq,
            source,
            key,
            record,
        };
        for answer in self.reads.iter().filter(|read| read.is_final).filter_map(|r| r.ending.ok()) {
            places.extend(self.seen[answer.seen.clone()].iter().map(|id| {
                place(Source::Final, self.record(*id).key, self.record(*id).seq, Some(*id))
            }));
        }
        places.extend(
            self.records()
                .map(|(id, record, _)| place(Source::Seen, record.key, record.seq, Some(id))),
        );
        for append in &self.appends {
            let acknowledged = self.acknowledged(append);
            places.extend(
                acknowledged.map(|(sent, seq)| place(Source::Acknowledged, sent.key, seq, None)),
            );
        }
        for query in &self.outcomes {
            if let Ending::Ok((OutcomeState::Committed, seq)) = query.ending {
                places.push(place(Source::Told, query.key, seq, None));
            }
        }
        places.sort_unstable();
        let mut seqs: Vec<Option<(Source, u64)>> = vec![None; self.keys.len()];
        for place in &places {
            let seq = &mut seqs[place.key as usize];
            if seq.is_none_or(|(source, _)| source > place.source) {
                *seq = Some((place.source, place.seq));
            }
        }
        places.dedup_by_key(|place| (place.conversation, place.seq));
        places.shrink_to_fit();
        self.places = places;
        self.seqs = seqs.into_iter().map(|seq| seq.map(|(_, seq)| seq)).collect();
    }
}

fn final_reads(model: &Model) -> Vec<FinalRead> {
    let answers = model.reads.iter().filter(|read| read.is_final);
    let answers = answers.filter_map(|read| Some((read, read.ending.ok()?)));
    let mut pages: Vec<(&Read, &ReadAnswer)> = answers.collect();
    // A replica may be read twice, once to learn the tail: a stronger read is one of its own.
    let replica = |page: &(&Read, &ReadAnswer)| {
        let is_linearizable = page.0.consistency == Linearizable;
        (page.0.conversation, page.1.position.node, is_linearizable)
    };
    pages.sort_by_key(|page| (replica(page), page.0.from_seq));
    let mut finals = vec![FinalRead::default(); model.names.len()];
    for pages in pages.chunk_by(|a, b| replica(a) == replica(b)) {
        let (conversation, node, is_linearizable) = replica(&pages[0]);
        let first_seq = pages.iter().map(|(_, answer)| answer.first_seq).max().unwrap_or(1);
        let tail = pages.iter().map(|(_, answer)| answer.tail).max().unwrap_or(1);
        let mut next = first_seq;
        for (_, answer) in pages {
            for id in &model.seen[answer.seen.clone()] {
                if model.record(*id).seq == next {
                    next += 1;
                }
            }
        }
        finals[conversation as usize].replicas.push(FinalReplica {
            node,
            first_seq,
            tail,
            is_complete: next >= tail,
            is_linearizable,
            called: pages.iter().map(|(read, _)| read.span.call.at).min().unwrap_or(0),
        });
    }
    finals
}
