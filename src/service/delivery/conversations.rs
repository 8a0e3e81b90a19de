use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;

use super::credit::Credit;

/// The conversations that a subscription has. Whoever takes one out announces its end, so that each ends once.
#[derive(Clone, Default)]
pub struct Conversations {
    sources: Arc<Mutex<HashMap<String, Source>>>,
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
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether it is one of them.
    pub fn contains(&self, conversation: &str) -> bool {
        self.lock().contains_key(conversation)
    }

    /// Puts one in.
    pub fn insert(&self, conversation: String, source: Source) {
        self.lock().insert(conversation, source);
    }

    /// Puts a local one in before the task that `spawn` starts can look for it.
    pub fn insert_local(
        &self,
        conversation: String,
        credit: Option<Arc<Credit>>,
        spawn: impl FnOnce() -> Task,
    ) {
        let mut sources = self.lock();
        sources.insert(conversation, Source::Local { task: spawn(), credit });
    }

    /// The credit of a local one.
    pub fn credit(&self, conversation: &str) -> Option<Arc<Credit>> {
        match self.lock().get(conversation)? {
            Source::Local { credit, .. } => credit.clone(),
            Source::Relayed { .. } => None,
        }
    }

    /// The stream that a relayed one comes over.
    pub fn relayed_by(&self, conversation: &str) -> Option<u64> {
        match self.lock().get(conversation)? {
            Source::Relayed { stream } => Some(*stream),
            Source::Local { .. } => None,
        }
    }

    /// Takes a local one out, to be stopped.
    pub fn take_local(&self, conversation: &str) -> Option<Task> {
        let mut sources = self.lock();
        match sources.remove(conversation)? {
            Source::Local { task, .. } => Some(task),
            relayed => {
                sources.insert(conversation.to_owned(), relayed);
                None
            }
        }
    }

    /// Takes a local one out from within its own task, which then still runs. False if somebody else has done so.
    pub fn leave(&self, conversation: &str) -> bool {
        self.take_local(conversation).map(Task::release).is_some()
    }

    /// Takes one out if it comes over this stream.
    pub fn take_if_relayed(&self, conversation: &str, stream: u64) -> bool {
        let mut sources = self.lock();
        let found = matches!(
            sources.get(conversation),
            Some(Source::Relayed { stream: over }) if *over == stream
        );
        if found {
            sources.remove(conversation);
        }
        found
    }

    /// Takes out all that come over this stream.
    pub fn take_relayed(&self, stream: u64) -> Vec<String> {
        let mut sources = self.lock();
        let over =
            |source: &Source| matches!(source, Source::Relayed { stream: s } if *s == stream);
        let names: Vec<String> = sources
            .iter()
            .filter(|(_, source)| over(source))
            .map(|(name, _)| name.clone())
            .collect();
        sources.retain(|_, source| !over(source));
        names
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_relayed_one_leaves_only_over_its_own_stream() {
        let conversations = Conversations::default();
        conversations.insert("a".into(), Source::Relayed { stream: 1 });
        conversations.insert("b".into(), Source::Relayed { stream: 2 });
        assert!(!conversations.take_if_relayed("a", 2));
        assert!(conversations.take_if_relayed("a", 1));
        assert!(!conversations.take_if_relayed("a", 1));
        assert_eq!(conversations.take_relayed(2), ["b"]);
        assert_eq!(conversations.len(), 0);
    }

    #[tokio::test]
    async fn a_conversation_ends_once_and_its_task_may_finish() {
        let conversations = Conversations::default();
        let (finished, is_finished) = oneshot::channel();
        let within = conversations.clone();
        conversations.insert_local("a".into(), None, || {
            Task::spawn(async move {
                let left = within.leave("a");
                tokio::task::yield_now().await;
                finished.send(left).unwrap();
            })
        });
        assert!(is_finished.await.unwrap());
        assert!(!conversations.leave("a"));
    }

    #[tokio::test]
    async fn a_task_ends_with_its_conversation() {
        let conversations = Conversations::default();
        let (held, is_dropped) = oneshot::channel::<()>();
        conversations.insert_local("a".into(), None, || {
            Task::spawn(async move {
                let _held = held;
                std::future::pending::<()>().await;
            })
        });
        drop(conversations);
        assert!(is_dropped.await.is_err());
    }
}
