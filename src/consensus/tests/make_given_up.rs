//! A replica that is made anew while its caller goes away, and comes back (G2): what is left of the first attempt must not
//! remove what the second has made.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::fixture::{EVENTUALLY, GROUP, replica};
use super::make_crashes::{old, with_an_old_replica};
use crate::storage::{
    Batch, Direction, Durability, Engine, KeyRange, Rows, Staging, StorageError, Table, View,
};

/// Of simulated time, which passes only where nothing is left to do: whoever is not done by then waits.
const IDLE: Duration = Duration::from_secs(5);
/// Jobs that may be under way at the same time.
const JOBS_MAX: usize = 16;

type Job = Box<dyn FnOnce() + Send>;

/// An engine that hands the test each job that is offloaded, as one whose threads are busy: nothing takes back a job
/// that waits there, whoever has stopped waiting for it.
struct Busy {
    engine: Arc<dyn Engine>,
    jobs: mpsc::Sender<Job>,
}

impl View for Busy {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.engine.get(table, key)
    }

    fn note_damage(&self, error: &StorageError) {
        self.engine.note_damage(error);
    }

    fn scan(&self, table: Table, range: KeyRange, direction: Direction) -> Rows<'_> {
        self.engine.scan(table, range, direction)
    }
}

impl Engine for Busy {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        self.engine.write(batch, durability)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.engine.flush()
    }

    fn pin(&self) -> Arc<dyn View> {
        self.engine.pin()
    }

    fn stage(&self, name: &str) -> Result<Box<dyn Staging>, StorageError> {
        self.engine.stage(name)
    }

    fn bring_in(&self, name: &str, clear: &[(Table, KeyRange)]) -> Result<(), StorageError> {
        self.engine.bring_in(name, clear)
    }

    fn unstage(&self, name: &str) -> Result<(), StorageError> {
        self.engine.unstage(name)
    }

    fn staged(&self) -> Result<Vec<String>, StorageError> {
        self.engine.staged()
    }

    fn offload(&self, job: Job) {
        self.jobs.try_send(job).expect("the test takes jobs");
    }

    fn host(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.engine.host(name, task);
    }

    fn note_failure(&self, error: &StorageError) {
        self.engine.note_failure(error);
    }

    fn background_error(&self) -> Option<StorageError> {
        self.engine.background_error()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_an_attempt_that_was_given_up_removes_nothing_of_the_next() {
    let disks = with_an_old_replica(true).await;
    let (jobs, mut offloaded) = mpsc::channel::<Job>(JOBS_MAX);
    let busy = Busy { engine: Arc::new(disks.state.open()), jobs };
    let process = disks.start_over(Arc::new(busy)).await;
    assert_eq!(process.replicas.get(GROUP).unwrap().replica(), old());
    let new = replica(3, 2);
    let attempt = || {
        let replicas = process.replicas.clone();
        tokio::spawn(async move { replicas.make(GROUP, new).await })
    };

    let first = attempt();
    let removal = timeout(EVENTUALLY, offloaded.recv()).await.expect("it begins").unwrap();
    first.abort();
    assert!(first.await.is_err_and(|ended| ended.is_cancelled()));

    let mut second = attempt();
    let made = loop {
        tokio::select! {
            biased;
            made = &mut second => break Some(made),
            Some(job) = offloaded.recv() => job(),
            () = sleep(IDLE) => break None,
        }
    };
    removal();
    let made = match made {
        Some(made) => made,
        None => loop {
            tokio::select! {
                made = &mut second => break made,
                Some(job) = offloaded.recv() => job(),
                () = sleep(EVENTUALLY) => panic!("it is never made"),
            }
        },
    };
    assert_eq!(made.unwrap().unwrap().replica(), new);
    assert!(process.replicas.has_stored(GROUP).unwrap(), "the first attempt has removed it");
    disks.crash(process).await;
}
