//! A replica that is made anew while its caller goes away, and comes back (G2): what is left of the first attempt must not
//! remove what the second has made.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::fixture::{EVENTUALLY, GROUP, replica};
use super::make_crashes::{old, with_an_old_replica};
use crate::storage::Engine;
use crate::storage::interposed::{Interposed, Interposer, Job};

/// Of simulated time, which passes only where nothing is left to do: whoever is not done by then waits.
const IDLE: Duration = Duration::from_secs(5);
/// Jobs that may be under way at the same time.
const JOBS_MAX: usize = 16;

/// Hands the test each job that is offloaded, as an engine whose threads are busy: nothing takes back a job that waits
/// there, whoever has stopped waiting for it.
struct Busy(mpsc::Sender<Job>);

impl Interposer for Busy {
    fn offload(&self, _below: &dyn Engine, job: Job) {
        self.0.try_send(job).expect("the test takes jobs");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_an_attempt_that_was_given_up_removes_nothing_of_the_next() {
    let disks = with_an_old_replica(true).await;
    let (jobs, mut offloaded) = mpsc::channel::<Job>(JOBS_MAX);
    let busy = Interposed { below: Arc::new(disks.state.open()), by: Busy(jobs) };
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
