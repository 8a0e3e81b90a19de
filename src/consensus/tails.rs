//! Wakes those who wait for a conversation to grow, and hands them what it has grown by.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::watch;

use super::live::{Growth, Kept, LiveBound, LiveMessage, Run};
use crate::types::{ConversationId, Seq};

const SHARDS: usize = 64;

type Shard = Mutex<HashMap<ConversationId, Watched>>;

/// A conversation that somebody watches.
struct Watched {
    tail: Arc<Tail>,
    watches: usize,
}

/// The end of one conversation.
pub(super) struct Tail {
    moved: watch::Sender<()>,
    run: Mutex<Run>,
}

impl Tail {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().expect("no panic while locked")
    }
}

/// What all replicas of a node keep of the conversations that somebody follows.
pub(super) type LiveMessages = LiveBound<Weak<Tail>>;

/// Tails of the conversations that somebody follows on this replica. Costs nothing for all others.
///
/// What changes stored messages in another way than by appending calls [`Tails::forget`], once it is written.
#[derive(Clone)]
pub struct Tails {
    shards: Arc<[Shard]>,
    live: LiveMessages,
}

/// One conversation's tail as it moves.
pub struct TailWatch {
    tails: Tails,
    conversation: ConversationId,
    tail: Arc<Tail>,
    moved: watch::Receiver<()>,
}

impl Tails {
    /// Nothing is followed yet.
    pub(super) fn new(live: LiveMessages) -> Self {
        Tails { shards: (0..SHARDS).map(|_| Shard::default()).collect(), live }
    }

    /// Watches a conversation. What was applied before the call is not announced: read the head after it.
    pub fn watch(&self, conversation: ConversationId) -> TailWatch {
        let mut shard = self.shard(conversation);
        let watched = shard.entry(conversation).or_insert_with(|| {
            let tail = Tail { moved: watch::Sender::new(()), run: Mutex::default() };
            Watched { tail: Arc::new(tail), watches: 0 }
        });
        watched.watches += 1;
        let (tail, moved) = (watched.tail.clone(), watched.tail.moved.subscribe());
        TailWatch { tails: self.clone(), conversation, tail, moved }
    }

    /// Whether somebody watches a conversation now.
    pub fn is_watched(&self, conversation: ConversationId) -> bool {
        self.shard(conversation).contains_key(&conversation)
    }

    /// Announces what a conversation has grown by: after it can be read, and in the order in which it was written.
    pub fn publish(&self, conversation: ConversationId, growth: &Growth) {
        let watched =
            self.shard(conversation).get(&conversation).map(|watched| watched.tail.clone());
        let Some(tail) = watched else { return };
        let bytes = tail.run().grow(growth);
        tail.moved.send_replace(());
        if bytes == 0 {
            return;
        }
        let kept = Kept { owner: Arc::downgrade(&tail), below: growth.tail, bytes };
        for oldest in self.live.keep(kept) {
            if let Some(tail) = oldest.owner.upgrade() {
                tail.run().drop_below(oldest.below);
            }
        }
    }

    /// Lets go of all messages: what is stored is another state now, or will be.
    pub fn forget(&self) {
        self.each(|tail| *tail.run() = Run::default());
    }

    /// Lets go of all messages and wakes every watcher: the state was replaced by a snapshot.
    pub fn publish_all(&self) {
        self.each(|tail| {
            *tail.run() = Run::default();
            tail.moved.send_replace(());
        });
    }

    fn each(&self, change: impl Fn(&Tail)) {
        for shard in self.shards.iter() {
            let shard = shard.lock().expect("no panic while locked");
            shard.values().for_each(|watched| change(&watched.tail));
        }
    }

    fn shard(
        &self,
        conversation: ConversationId,
    ) -> MutexGuard<'_, HashMap<ConversationId, Watched>> {
        let shard = &self.shards[usize::from(conversation.0[15]) % SHARDS];
        shard.lock().expect("no panic while locked")
    }
}

impl TailWatch {
    /// Waits until the conversation may have grown since the call before, or since `messages_from`. Cancel safe.
    pub async fn changed(&mut self) {
        self.moved.changed().await.expect("the watch holds its sender");
    }

    /// Messages from `next` on that are in memory, no more than `messages_max` and, beyond the first, `bytes_max` bytes
    /// as stored; nothing if `next` has yet to come. None if that has to be read from the stored state.
    pub fn messages_from(
        &mut self,
        next: Seq,
        messages_max: usize,
        bytes_max: u64,
    ) -> Option<Vec<Arc<LiveMessage>>> {
        // First: what comes after the look is announced.
        self.moved.mark_unchanged();
        self.tail.run().messages_from(next, messages_max, bytes_max)
    }
}

impl Drop for TailWatch {
    fn drop(&mut self) {
        let mut shard = self.tails.shard(self.conversation);
        if let Entry::Occupied(mut watched) = shard.entry(self.conversation) {
            watched.get_mut().watches -= 1;
            if watched.get().watches == 0 {
                watched.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::FutureExt;

    use super::*;
    use crate::consensus::solitary::EVENTUALLY;
    use crate::types::limits;

    const A: ConversationId = ConversationId([1; 16]);
    const B: ConversationId = ConversationId([2; 16]);

    fn tails() -> Tails {
        Tails::new(LiveMessages::default())
    }

    /// Messages `[from, to)`, each of so many bytes.
    fn growth(from: u64, to: u64, bytes: usize) -> Growth {
        let stored = (from..to).map(|_| vec![7; bytes].into()).collect();
        Growth { from: Seq(from), tail: Seq(to), stored }
    }

    fn seqs(watch: &mut TailWatch, next: u64) -> Option<Vec<u64>> {
        let messages = watch.messages_from(Seq(next), usize::MAX, u64::MAX)?;
        Some(messages.iter().map(|message| message.seq().0).collect())
    }

    #[test]
    fn a_conversation_is_kept_while_somebody_watches_it() {
        let tails = tails();
        tails.publish(A, &growth(1, 2, 10));
        assert!(!tails.is_watched(A));
        let mut first = tails.watch(A);
        assert_eq!(seqs(&mut first, 1), None, "nobody watched");
        tails.publish(A, &growth(2, 3, 10));
        let mut second = tails.watch(A);
        drop(first);
        assert!(tails.is_watched(A) && !tails.is_watched(B));
        assert_eq!(seqs(&mut second, 2), Some(vec![2]));
        assert_eq!(second.changed().now_or_never(), None, "it was there before");
        tails.publish(A, &growth(3, 4, 10));
        assert_eq!(second.changed().now_or_never(), Some(()));
        assert_eq!(seqs(&mut second, 2), Some(vec![2, 3]));
        let tail = Arc::downgrade(&second.tail);
        drop(second);
        assert!(!tails.is_watched(A));
        assert!(tail.upgrade().is_none(), "nothing is left of it");
    }

    #[test]
    fn what_came_before_a_look_does_not_wake() {
        let tails = tails();
        let mut watch = tails.watch(A);
        tails.publish(A, &growth(1, 2, 10));
        assert_eq!(seqs(&mut watch, 1), Some(vec![1]));
        assert_eq!(watch.changed().now_or_never(), None);
        tails.publish(B, &growth(1, 2, 10));
        assert_eq!(watch.changed().now_or_never(), None, "another one grew");
    }

    #[test]
    fn nothing_outlives_a_change_of_the_whole_state() {
        let tails = tails();
        let mut watch = tails.watch(A);
        tails.publish(A, &growth(1, 2, 10));
        tails.publish_all();
        assert_eq!(watch.changed().now_or_never(), Some(()));
        assert_eq!(seqs(&mut watch, 1), None);
        assert_eq!(seqs(&mut watch, 2), None, "the snapshot may have brought it");
        tails.publish(A, &growth(5, 6, 10));
        assert_eq!(seqs(&mut watch, 2), None);
        assert_eq!(seqs(&mut watch, 5), Some(vec![5]));
        tails.forget();
        assert_eq!(seqs(&mut watch, 5), None);
    }

    #[test]
    fn conversations_of_all_groups_share_what_a_node_may_keep() {
        let live = LiveMessages::default();
        let (one, other) = (Tails::new(live.clone()), Tails::new(live));
        let (mut quiet, mut busy) = (one.watch(A), other.watch(B));
        one.publish(A, &growth(1, 2, 10));
        let bytes = limits::LIVE_CONVERSATION_BYTES_MAX / 4;
        let count = limits::LIVE_NODE_BYTES_MAX / bytes;
        for seq in (1..).take(count) {
            assert!(seqs(&mut quiet, 1).is_some() || seq > 1);
            other.publish(B, &growth(seq, seq + 1, bytes));
        }
        assert_eq!(seqs(&mut quiet, 1), None, "it was the oldest");
        assert_eq!(seqs(&mut quiet, 2), Some(vec![]), "it is still known to have no more");
        assert_eq!(seqs(&mut busy, count as u64), Some(vec![count as u64]));
    }

    /// Whatever is kept or not and however their steps fall together, a follower sees each seq once and in order, and
    /// what it is not given from memory it can read: it was stored before it was published.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn followers_that_come_and_go_while_it_grows_miss_nothing() {
        const LAST: u64 = 20_000;
        let tails = tails();
        let (stored, from_memory) = (Arc::new(AtomicU64::new(1)), Arc::<AtomicU64>::default());
        let follow = |tails: Tails, stored: Arc<AtomicU64>, from_memory: Arc<AtomicU64>| async move {
            let mut next = 1;
            while next < LAST {
                // Leaves now and then, so that there are times when nobody watches.
                let mut watch = tails.watch(A);
                let leaves_at = LAST.min(next + 1_000);
                while next < leaves_at {
                    let Some(messages) = watch.messages_from(Seq(next), 7, u64::MAX) else {
                        let tail = stored.load(Ordering::Acquire);
                        match next < tail {
                            true => next = tail,
                            false => watch.changed().await,
                        }
                        continue;
                    };
                    for message in &messages {
                        assert_eq!(message.seq(), Seq(next));
                        assert!(next < stored.load(Ordering::Acquire), "{next} is not stored");
                        next += 1;
                        from_memory.fetch_add(1, Ordering::AcqRel);
                    }
                    if messages.is_empty() {
                        watch.changed().await;
                    }
                }
            }
        };
        let follow = || follow(tails.clone(), stored.clone(), from_memory.clone());
        let followers: Vec<_> = (0..4).map(|_| tokio::spawn(follow())).collect();
        while !tails.is_watched(A) {
            tokio::task::yield_now().await;
        }
        let mut from = 1;
        while from < LAST {
            let tail = LAST.min(from + 1 + from % 5);
            let mut grown = growth(from, tail, 10);
            if !tails.is_watched(A) {
                grown.stored.clear();
            }
            stored.store(tail, Ordering::Release);
            tails.publish(A, &grown);
            from = tail;
            tokio::task::yield_now().await;
            // Whoever watches has the first from memory, however late its turn comes.
            while from_memory.load(Ordering::Acquire) == 0 {
                tokio::task::yield_now().await;
            }
        }
        let followed = futures::future::try_join_all(followers);
        let followed = tokio::time::timeout(EVENTUALLY, followed).await.expect("none is left");
        followed.unwrap();
        assert!(!tails.is_watched(A));
    }
}
