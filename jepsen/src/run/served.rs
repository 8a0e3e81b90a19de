//! How long it takes until the whole cluster serves again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use futures::FutureExt;
use futures::future::{join, join_all, select_ok};
use quorate_client::proto::ReplaceRequest;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use crate::check::SERVED_WITHIN;
use crate::history::{Consistency, ReadCall};
use crate::workload::{Caller, Floor};

/// More than is allowed, so that a cluster that was given up has not served in time.
const DEADLINE: Duration = Duration::from_nanos(SERVED_WITHIN + 1_000_000_000);
const PAUSE: Duration = Duration::from_millis(50);
/// How long nodes are waited for that are asked about the meta group, before all are asked anew: the one that answers may
/// have found a leader that is gone.
const META_ATTEMPT: Duration = Duration::from_secs(2);
/// No node has this number.
const NO_NODE: u64 = u32::MAX as u64;

/// How long it took until all served.
pub(super) struct Waited {
    /// So long; or more than [`SERVED_WITHIN`], if it was given up then.
    pub took: Duration,
    /// Who had not served then, for people.
    pub unserved: Vec<String>,
}

impl Waited {
    /// The longer of the two.
    pub fn later(self, other: Waited) -> Waited {
        if other.took > self.took { other } else { self }
    }
}

/// Waits until every group has acknowledged an append and answered a linearizable read, calls that are in the history like
/// any other; and until the meta group has confirmed the topology.
pub(super) async fn wait(floor: &Arc<Floor>) -> Waited {
    let begun = Instant::now();
    let deadline = begun + DEADLINE;
    let all = join(groups_serve(floor, deadline), meta_group_serves(floor, deadline));
    let (mut unserved, has_meta_group) = all.await;
    if !has_meta_group {
        unserved.push("the meta group".to_owned());
    }
    Waited { took: begun.elapsed(), unserved }
}

/// Which groups of conversations have not served in time.
async fn groups_serve(floor: &Arc<Floor>, deadline: Instant) -> Vec<String> {
    let none = || vec!["any group of conversations".to_owned()];
    let caller = loop {
        match floor.caller(None).await {
            Some(caller) => break caller,
            None if Instant::now() >= deadline => return none(),
            None => sleep(PAUSE).await,
        }
    };
    let by_group = loop {
        let by_group = by_group(&caller, floor);
        match by_group.is_empty() {
            false => break by_group,
            true if Instant::now() >= deadline => return none(),
            true => sleep(PAUSE).await,
        }
    };
    let each = by_group.into_iter().map(async |(group, name)| {
        let has_served = serves(caller.sibling(), name, deadline).await;
        (!has_served).then(|| format!("group {group}"))
    });
    join_all(each).await.into_iter().flatten().collect()
}

/// Whether the meta group confirms the topology to any node in time.
async fn meta_group_serves(floor: &Floor, deadline: Instant) -> bool {
    while Instant::now() < deadline {
        let asked = (1..=floor.nodes()).map(|node| confirms(floor, node).boxed());
        match timeout(META_ATTEMPT, select_ok(asked)).await {
            Ok(Ok(_)) => return true,
            _ => sleep(PAUSE).await,
        }
    }
    false
}

/// Asks a node to make one anew that there is not. Before it can say so, the leader of the meta group has to confirm with
/// its quorum which nodes there are; nothing is changed. A node that there is could have a replica that a nemesis is to
/// replace, or that nobody has noticed to be lost.
async fn confirms(floor: &Floor, node: u32) -> anyhow::Result<()> {
    let mut cluster = floor.cluster(node)?;
    let nobody = ReplaceRequest { node_id: NO_NODE, ..ReplaceRequest::default() };
    let ended = async {
        let mut steps = cluster.replace(nobody).await?.into_inner();
        // It says each second that it waits.
        while steps.message().await?.is_some() {}
        Ok(())
    };
    ensure!(is_confirmed(&ended.await), "the meta group confirms nothing to node {node}");
    Ok(())
}

fn is_confirmed(ended: &Result<(), Status>) -> bool {
    ended.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument)
}

/// One conversation of each group.
fn by_group(caller: &Caller, floor: &Floor) -> BTreeMap<u64, String> {
    let names = floor.conversations.iter();
    names.filter_map(|name| Some((caller.group_of(name)?, name.clone()))).collect()
}

async fn serves(mut caller: Caller, conversation: String, deadline: Instant) -> bool {
    while Instant::now() < deadline {
        let messages = caller.compose(&conversation, "probe", 1);
        let Ok(seq) = caller.append(&messages, None).await else {
            sleep(PAUSE).await;
            continue;
        };
        let call = ReadCall {
            conversation: conversation.clone(),
            consistency: Consistency::Linearizable,
            from_seq: seq,
            limit: 10,
            of_the_end: false,
            is_final: false,
        };
        if caller.read(call).await.is_ok() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::record::Recorder;

    #[test]
    fn only_the_answer_that_there_is_no_such_node_shows_that_the_meta_group_confirmed_it() {
        let ended = |code| Err(Status::new(code, ""));
        assert!(is_confirmed(&ended(Code::InvalidArgument)));
        for other in [Code::Unavailable, Code::FailedPrecondition, Code::DeadlineExceeded] {
            assert!(!is_confirmed(&ended(other)), "{other}");
        }
        assert!(!is_confirmed(&Ok(())));
    }

    #[tokio::test]
    async fn a_meta_group_of_nodes_that_are_away_or_silent_does_not_serve() {
        let dir = tempfile::tempdir().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let away = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoints = [&silent, &away].map(|at| at.local_addr().unwrap().to_string());
        drop(away);
        let floor = Floor::new(Recorder::create(dir.path()).unwrap(), Vec::new(), endpoints.into());
        let deadline = Instant::now() + Duration::from_millis(100);
        assert!(!meta_group_serves(&floor, deadline).await);
    }
}
