//! What the service tells whoever counts.

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use super::authorize::Operation;

/// Told about calls as they happen. Must not block: it is called on the way of every message.
pub trait ServiceObserver: Send + Sync {
    /// A call was answered. For a stream: it was opened or refused.
    fn answered(&self, operation: Operation, code: Code, took: Duration);

    /// An append (of a session too) had its outcome, after this long at this node.
    fn appended(&self, messages: usize, code: Code, took: Duration);

    /// A call was handed on to another node.
    fn forwarded(&self, operation: Operation);

    /// Messages were put on a subscription's stream.
    fn delivered(&self, messages: usize, content_bytes: u64);

    /// A Follow, Subscribe or AppendSession stream was opened.
    fn stream_opened(&self, operation: Operation);

    /// Such a stream ended.
    fn stream_closed(&self, operation: Operation);

    /// So many more appends of sessions than before wait for their answer; negative for fewer.
    fn session_appends_changed(&self, by: i64);
}

/// Counts nothing.
pub struct Unobserved;

impl ServiceObserver for Unobserved {
    fn answered(&self, _: Operation, _: Code, _: Duration) {}
    fn appended(&self, _: usize, _: Code, _: Duration) {}
    fn forwarded(&self, _: Operation) {}
    fn delivered(&self, _: usize, _: u64) {}
    fn stream_opened(&self, _: Operation) {}
    fn stream_closed(&self, _: Operation) {}
    fn session_appends_changed(&self, _: i64) {}
}

/// Counts one open stream until it is dropped, however it ends.
pub struct OpenStream {
    observer: Arc<dyn ServiceObserver>,
    operation: Operation,
}

impl OpenStream {
    /// From now on.
    pub fn new(observer: Arc<dyn ServiceObserver>, operation: Operation) -> Self {
        observer.stream_opened(operation);
        OpenStream { observer, operation }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.observer.stream_closed(self.operation);
    }
}

/// Tells how many appends of one session wait for their answer, and that none do when the session ends.
pub struct SessionDepth {
    observer: Arc<dyn ServiceObserver>,
    told: usize,
}

impl SessionDepth {
    /// None yet.
    pub fn new(observer: Arc<dyn ServiceObserver>) -> Self {
        SessionDepth { observer, told: 0 }
    }

    /// So many now.
    pub fn set(&mut self, waiting: usize) {
        if waiting != self.told {
            self.observer.session_appends_changed(waiting as i64 - self.told as i64);
            self.told = waiting;
        }
    }
}

impl Drop for SessionDepth {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<i64>>);

    impl ServiceObserver for Told {
        fn answered(&self, _: Operation, _: Code, _: Duration) {}
        fn appended(&self, _: usize, _: Code, _: Duration) {}
        fn forwarded(&self, _: Operation) {}
        fn delivered(&self, _: usize, _: u64) {}
        fn stream_opened(&self, _: Operation) {}
        fn stream_closed(&self, _: Operation) {}
        fn session_appends_changed(&self, by: i64) {
            self.0.lock().unwrap().push(by);
        }
    }

    #[test]
    fn a_session_tells_changes_and_ends_at_none() {
        let told = Arc::new(Told::default());
        let mut depth = SessionDepth::new(told.clone());
        for waiting in [3, 3, 1] {
            depth.set(waiting);
        }
        drop(depth);
        assert_eq!(*told.0.lock().unwrap(), [3, -2, -1]);
    }
}
