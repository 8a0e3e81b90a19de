//! Threads of their own for the port of clients.
//!
//! Guarantee at stake: G12. What is ready on a runtime has its turn one after the other, whatever it is. An entry, or a
//! heartbeat, has a dozen such turns between two nodes; with thousands of appends a second to be refused before each of
//! them it takes longer than a lease, and groups lose their leaders. Between threads the kernel divides the processors.

use std::io;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// Until what is at work on them has come to a point where it can be left.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The threads. They end, with all that runs on them, when this is dropped.
pub struct ClientThreads(Option<Runtime>);

impl ClientThreads {
    /// Half as many as there are processors: however many clients there are, as much is left for what the nodes do among
    /// themselves.
    ///
    /// # Errors
    /// The operating system has no room for them.
    pub fn start() -> io::Result<ClientThreads> {
        let processors = available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads(processors.div_ceil(2))
            .thread_name("clients")
            .enable_all()
            .build()?;
        Ok(ClientThreads(Some(runtime)))
    }

    /// Where to spawn what is to run on them.
    pub fn handle(&self) -> Handle {
        self.0.as_ref().expect("there until it ends").handle().clone()
    }

    /// Ends them, and waits until they have: nothing that ran on them has a database any more. For a second at most.
    #[expect(
        clippy::disallowed_methods,
        reason = "these threads are the machine's: none is in a simulation"
    )]
    pub async fn end(mut self) {
        let Some(runtime) = self.0.take() else { return };
        let ending = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(END_TIMEOUT));
        if let Err(error) = ending.await {
            tracing::warn!(%error, "the threads for clients have not ended");
        }
    }
}

impl Drop for ClientThreads {
    /// Without waiting, which a task must not.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
