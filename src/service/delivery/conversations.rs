use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;

use super::credit::Credit;
use super::relay::Upstream;
use crate::consensus::{Room, RoomLeft};
use crate::service::errors::CallError;
use crate::types::{NodeId, give_places_back, limits};

/// The conversations that a subscription has, and the room that they take. Whoever takes one out announces its end, so
/// that each ends once. Each clone is the same set.
#[derive(Clone)]
pub struct Conversations {
    held: Arc<Mutex<Held>>,
}

struct Held {
    room: Room,
    sources: HashMap<String, Source>,
    /// The streams to other nodes, under the same lock: one that is here has not ended, so that whatever is put under
    /// it is delivered or ended.
    upstreams: HashMap<NodeId, Upstream>,
}

impl Held {
    /// Takes room for so many in all.
    fn make_room(&mut self, conversations: usize) -> Result<(), CallError> {
        self.room.grow_to(bytes(conversations)).ok_or_else(CallError::too_much_followed)
    }

    fn remove(&mut self, conversation: &str) -> Option<Source> {
        let removed = self.sources.remove(conversation);
        give_places_back(&mut self.sources);
        self.room.shrink_to(bytes(self.sources.len()));
        removed
    }
}

/// Memory of so many conversations, beside what any call has.
fn bytes(conversations: usize) -> usize {
    (conversations * limits::FOLLOWED_BYTES).saturating_sub(limits::CALL_BYTES_FREE)
}

/// Where a conversation's messages come from.
pub enum Source {
    /// The replica of this node.
    Local {
        /// Reads it.
        task: Task,
        /// What may be sent, if the caller limits it.
        credit: Option<Arc<Credit>>,
    },
    /// Another node.
    Relayed {
        /// Over which stream of the subscription.
        stream: u64,
    },
}

impl Source {
    fn is_over(&self, stream: u64) -> bool {
        matches!(self, Source::Relayed { stream: over } if *over == stream)
    }
}

/// A task that ends when this is dropped.
pub struct Task {
    handle: Option<JoinHandle<()>>,
}

impl Task {
    /// Starts it.
    pub fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Task { handle: Some(tokio::spawn(work)) }
    }

    /// Ends it and waits until it does nothing any more.
    pub async fn stop(mut self) {
        if let Some(handle) = self.handle.take() {
            handle.abort();
            // Cancelled, as asked for, or ended just before.
            let _ = handle.await;
        }
    }

    /// Lets it run to its own end.
    fn release(mut self) {
        self.handle = None;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.abort();
        }
    }
}

impl Conversations {
    /// None yet.
    pub fn new(left: &RoomLeft) -> Self {
        let (sources, upstreams) = (HashMap::new(), HashMap::new());
        let held = Held { room: left.nothing(), sources, upstreams };
        Conversations { held: Arc::new(Mutex::new(held)) }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for so many in all, before they are put in.
    ///
    /// # Errors
    /// OVERLOADED.
    pub fn make_room(&self, conversations: usize) -> Result<(), CallError> {
        self.lock().make_room(conversations)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().sources.len()
    }

    /// Whether it is one of them.
    pub fn contains(&self, conversation: &str) -> bool {
        self.lock().sources.contains_key(conversation)
    }

    /// Puts one in that another node delivers, over the stream there is or else over the one that `open` opens.
    /// Returns the stream, to be told.
    ///
    /// # Errors
    /// OVERLOADED, or as `open` fails.
    pub fn insert_relayed(
        &self,
        conversation: String,
        node: NodeId,
        open: impl FnOnce() -> Result<Upstream, CallError>,
    ) -> Result<Upstream, CallError> {
        let mut held = self.lock();
        let more = held.sources.len() + 1;
        held.make_room(more)?;
        let upstream = match held.upstreams.entry(node) {
            Entry::Occupied(there) => there.get().clone(),
            Entry::Vacant(none) => none.insert(open()?).clone(),
        };
        held.sources.insert(conversation, Source::Relayed { stream: upstream.stream });
        Ok(upstream)
    }

    /// Puts a local one in before the task that `spawn` starts can look for it.
    ///
    /// # Errors
    /// OVERLOADED, and nothing is started.
    pub fn insert_local(
        &self,
        conversation: String,
        credit: Option<Arc<Credit>>,
        spawn: impl FnOnce() -> Task,
    ) -> Result<(), CallError> {
        let mut held = self.lock();
        let more = held.sources.len() + 1;
        held.make_room(more)?;
        held.sources.insert(conversation, Source::Local { task: spawn(), credit });
        Ok(())
    }

    /// The credit of a local one.
    pub fn credit(&self, conversation: &str) -> Option<Arc<Credit>> {
        match self.lock().sources.get(conversation)? {
            Source::Local { credit, .. } => credit.clone(),
            Source::Relayed { .. } => None,
        }
    }

    /// The stream that a relayed one comes over. None if that has ended: then its end is on the way.
    pub fn relayed_by(&self, conversation: &str) -> Option<Upstream> {
        let held = self.lock();
        let Source::Relayed { stream } = held.sources.get(conversation)? else { return None };
        held.upstreams.values().find(|upstream| upstream.stream == *stream).cloned()
    }

    /// Takes a local one out, to be stopped.
    pub fn take_local(&self, conversation: &str) -> Option<Task> {
        let mut held = self.lock();
        if let Source::Relayed { .. } = held.sources.get(conversation)? {
            return None;
        }
        match held.remove(conversation)? {
            Source::Local { task, .. } => Some(task),
            Source::Relayed { .. } => None,
        }
    }

    /// Takes a local one out from within its own task, which then still runs. False if somebody else has done so.
    pub fn leave(&self, conversation: &str) -> bool {
        self.take_local(conversation).map(Task::release).is_some()
    }

    /// Takes one out if it comes over this stream.
    pub fn take_if_relayed(&self, conversation: &str, stream: u64) -> bool {
        let mut held = self.lock();
        let found = held.sources.get(conversation).is_some_and(|source| source.is_over(stream));
        if found {
            held.remove(conversation);
        }
        found
    }

    /// Notes that a stream has ended: nothing is put under it any more. Returns what comes over it, which stays until
    /// its end can be announced.
    pub fn end_upstream(&self, stream: u64) -> Vec<String> {
        let mut held = self.lock();
        held.upstreams.retain(|_, upstream| {
            let ended = upstream.stream == stream;
            if ended {
                upstream.end();
            }
            !ended
        });
        let over = held.sources.iter().filter(|(_, source)| source.is_over(stream));
        over.map(|(name, _)| name.clone()).collect()
    }

    /// Takes all out, and announces nothing. Their tasks know this set, so that it does not go by itself.
    pub fn clear(&self) {
        let mut held = self.lock();
        let sources = std::mem::take(&mut held.sources);
        held.upstreams.clear();
        held.room.shrink_to(0);
        drop(held);
        drop(sources);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    const NODE: NodeId = NodeId(7);

    fn conversations() -> Conversations {
        Conversations::new(&RoomLeft::new(limits::FOLLOWED_BYTES_MAX))
    }

    fn upstream(stream: u64) -> Result<Upstream, CallError> {
        Ok(Upstream::new(stream, mpsc::channel(1).0))
    }

    fn insert(conversations: &Conversations, name: &str, node: NodeId, if_opened: u64) -> u64 {
        let open = || upstream(if_opened);
        conversations.insert_relayed(name.to_owned(), node, open).unwrap().stream
    }

    #[test]
    fn a_relayed_one_leaves_only_over_its_own_stream() {
        let conversations = conversations();
        assert_eq!(insert(&conversations, "a", NODE, 1), 1);
        assert_eq!(insert(&conversations, "b", NodeId(8), 2), 2);
        assert!(!conversations.take_if_relayed("a", 2));
        assert!(conversations.take_if_relayed("a", 1));
        assert!(!conversations.take_if_relayed("a", 1));
        assert_eq!(conversations.end_upstream(2), ["b"]);
        assert!(conversations.take_if_relayed("b", 2));
        assert_eq!(conversations.len(), 0);
    }

    #[test]
    fn nothing_is_put_under_a_stream_that_has_ended() {
        let conversations = conversations();
        assert_eq!(insert(&conversations, "a", NODE, 1), 1);
        assert_eq!(insert(&conversations, "b", NODE, 2), 1, "the one there is");
        assert!(conversations.take_if_relayed("b", 1));
        assert_eq!(conversations.end_upstream(1), ["a"]);
        assert_eq!(insert(&conversations, "c", NODE, 3), 3);
        // The first one's end is still to be announced.
        assert!(conversations.contains("a"));
        assert!(conversations.relayed_by("a").is_none());
        assert_eq!(conversations.relayed_by("c").unwrap().stream, 3);
    }

    #[tokio::test]
    async fn a_conversation_ends_once_and_its_task_may_finish() {
        let conversations = conversations();
        let (finished, is_finished) = oneshot::channel();
        let within = conversations.clone();
        let inserted = conversations.insert_local("a".into(), None, || {
            Task::spawn(async move {
                let left = within.leave("a");
                tokio::task::yield_now().await;
                finished.send(left).unwrap();
            })
        });
        inserted.unwrap();
        assert!(is_finished.await.unwrap());
        assert!(!conversations.leave("a"));
    }

    #[tokio::test]
    async fn a_task_ends_with_its_conversation() {
        let conversations = conversations();
        let (held, is_dropped) = oneshot::channel::<()>();
        let inserted = conversations.insert_local("a".into(), None, || {
            Task::spawn(async move {
                let _held = held;
                std::future::pending::<()>().await;
            })
        });
        inserted.unwrap();
        drop(conversations);
        assert!(is_dropped.await.is_err());
    }

    #[tokio::test]
    async fn conversations_take_room_until_they_leave() {
        const FREE: usize = limits::CALL_BYTES_FREE / limits::FOLLOWED_BYTES;
        let left = RoomLeft::new(2 * limits::FOLLOWED_BYTES);
        let conversations = Conversations::new(&left);
        let here = |name: &str| {
            let task = || Task::spawn(std::future::pending());
            conversations.insert_local(name.to_owned(), None, task)
        };
        for number in 0..FREE {
            here(&number.to_string()).unwrap();
        }
        assert!(left.take(2 * limits::FOLLOWED_BYTES).is_some(), "what any stream has is free");
        here("last").unwrap();
        assert_eq!(insert(&conversations, "there", NODE, 1), 1);
        let refused = here("one more").unwrap_err();
        assert_eq!((refused.reason(), refused.is_retryable()), ("OVERLOADED", true));
        assert!(!conversations.contains("one more"));
        assert!(conversations.insert_relayed("and".to_owned(), NODE, || upstream(2)).is_err());

        assert!(conversations.take_if_relayed("there", 1));
        assert!(conversations.leave("last"));
        assert!(left.take(2 * limits::FOLLOWED_BYTES).is_some());
        conversations.make_room(FREE + 2).unwrap();
        assert!(left.take(1).is_none(), "it is held before they come");
        conversations.clear();
        assert!(left.take(2 * limits::FOLLOWED_BYTES).is_some());
    }
}
