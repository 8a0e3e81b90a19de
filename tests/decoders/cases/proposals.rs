//! What goes through the log, and changes of topology on their way to its leader, which have the same form.

use bytes::Bytes;
use quorate::log::{
    Append, Command, IdKey, LanePlace, NewMessage, Predecessor, Proposal, ProposalRef, Settle,
    TopologyChange,
};
use quorate::service::cluster::decode_change;
use quorate::storage::records::Kind;
use quorate::types::{
    AttemptId, ConversationName, GroupId, HashRange, Incarnation, NodeId, Seq, Timestamp,
};

use super::{Case, broken, records, sealed, unsealed};

pub const CASE: Case = Case { seeds, check };

fn check(input: &[u8]) {
    let encoded = sealed(&[], input);
    let accepts = |encoded: &[u8]| ProposalRef::decode(encoded).is_ok();
    assert!(!accepts(&broken(encoded.clone())), "a wrong checksum is accepted");
    let change = decode_change(&encoded);
    match <Proposal>::decode(&encoded) {
        Ok(decoded) => {
            assert!(accepts(&encoded), "what can be decoded can be applied");
            assert_eq!(Proposal::decode(&decoded.encode()).as_ref(), Ok(&decoded));
            let command = change.map(Command::ChangeTopology);
            assert!(command.is_none_or(|command| decoded.commands == [command]));
            let estimates = decoded.commands.iter().map(Command::encoded_bytes_estimate);
            assert!(estimates.sum::<usize>() > 0 || decoded.commands.is_empty());
        }
        Err(error) => {
            assert!(change.is_none() && !accepts(&encoded) && !error.to_string().is_empty());
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let alone = |command| Proposal { stamped_at: Timestamp(0), commands: vec![command] };
    let changes = changes().map(|change| alone(Command::ChangeTopology(change)));
    let proposals = changes.into_iter().chain([proposal()]);
    proposals.map(|proposal| unsealed(&proposal.encode()).to_vec()).collect()
}

/// A proposal with every kind of command.
pub fn proposal() -> Proposal {
    let conversation = ConversationName("acme/room".into());
    let id = IdKey { sender: "ann".into(), client_msg_id: "one".into() };
    let predecessor = Predecessor { attempt: AttemptId(6), last: id.clone() };
    let append = Append {
        conversation: conversation.clone(),
        sender: "ann".into(),
        messages: vec![message()],
        expected_tail: Some(Seq(1)),
        lane: Some(LanePlace { attempt: AttemptId(7), predecessor: Some(predecessor) }),
    };
    let settle = Settle { conversation, id, issued_at: Timestamp(1_000_000) };
    let commands = vec![
        Command::Configure { range: HashRange::ALL, epoch: 1 },
        Command::Append(append),
        Command::Settle(settle),
        Command::RaiseDedupFloor { floor: Timestamp(1_000) },
        Command::ChangeTopology(TopologyChange::ActivateGroup { group: GroupId(3) }),
    ];
    Proposal { stamped_at: Timestamp(2_000_000), commands }
}

fn message() -> NewMessage {
    NewMessage {
        client_msg_id: "one".into(),
        issued_at: Timestamp(1_000_000),
        kind: Kind::Content,
        content_type: "text/plain".into(),
        headers: vec![("name".into(), Bytes::from_static(b"value"))],
        payload: Bytes::from_static(b"payload"),
        payload_crc32c: crc32c::crc32c(b"payload"),
        target_seq: None,
        traceparent: String::new(),
        salt: [7; 16],
    }
}

fn changes() -> [TopologyChange; 5] {
    let (group, node, incarnation) = (GroupId(1), NodeId(1), Incarnation(2));
    let topology = records::topology();
    [
        TopologyChange::UpdateNode(topology.nodes[0].clone()),
        TopologyChange::Create(topology),
        TopologyChange::ActivateGroup { group },
        TopologyChange::RenewReplica { group, node, incarnation },
        TopologyChange::ReplicaMade { group, node, incarnation },
    ]
}
