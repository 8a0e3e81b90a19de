//! The form of proposals: golden bytes, damage, and what a newer version might send.

use bytes::Bytes;

use super::replica::{append_of, minutes, name, text_message};
use crate::log::{
    Append, Command, DecodeError, IdKey, LanePlace, NewMessage, Predecessor, Proposal, Settle,
    Topology, TopologyChange, TopologyGroup, TopologyNode, TopologyReplica,
};
use crate::storage::keys;
use crate::storage::records::{Kind, Record};
use crate::types::{
    AttemptId, ClusterId, GroupId, HashRange, Incarnation, NodeId, PlacementHash, Seq, Timestamp,
};

fn message() -> NewMessage {
    NewMessage {
        kind: Kind::Replacement,
        headers: vec![("h".to_owned(), Bytes::from_static(&[1, 2]))],
        target_seq: Some(Seq(3)),
        traceparent: "tp".to_owned(),
        salt: [0xaa; 16],
        ..text_message("id", "hello")
    }
}

fn topology() -> Topology {
    Topology {
        cluster: ClusterId(0x0102),
        version: 3,
        feature_level: 1,
        nodes: vec![TopologyNode {
            id: NodeId(1),
            client_address: "c:1".to_owned(),
            peer_address: "p:2".to_owned(),
            http_address: "h:3".to_owned(),
            zone: "z".to_owned(),
            meta_incarnation: Incarnation(1),
        }],
        groups: vec![TopologyGroup {
            id: GroupId(1),
            range: HashRange::ALL,
            epoch: 1,
            active: true,
            replicas: vec![TopologyReplica {
                node: NodeId(1),
                incarnation: Incarnation(2),
                joining: true,
            }],
        }],
    }
}

/// One of each command, in the order of their tags.
fn every_command() -> Vec<Command> {
    vec![
        Command::Configure {
            range: HashRange { start: PlacementHash(1), end: Some(PlacementHash(2)) },
            epoch: 7,
        },
        Command::Append(Append {
            expected_tail: Some(Seq(4)),
            lane: Some(LanePlace {
                attempt: AttemptId(300),
                predecessor: Some(Predecessor {
                    attempt: AttemptId(299),
                    last: IdKey { sender: "s".to_owned(), client_msg_id: "p".to_owned() },
                }),
            }),
            ..append_of("room", "alice", vec![message()])
        }),
        Command::Settle(Settle {
            conversation: name("room"),
            id: IdKey { sender: "s".to_owned(), client_msg_id: "i".to_owned() },
            issued_at: minutes(1),
        }),
        Command::RaiseDedupFloor { floor: Timestamp(9) },
        Command::ChangeTopology(TopologyChange::Create(topology())),
    ]
}

fn every_topology_change() -> Vec<TopologyChange> {
    let (group, node, incarnation) = (GroupId(5), NodeId(6), Incarnation(7));
    vec![
        TopologyChange::Create(topology()),
        TopologyChange::ActivateGroup { group },
        TopologyChange::UpdateNode(topology().nodes.remove(0)),
        TopologyChange::RenewReplica { group, node, incarnation },
        TopologyChange::ReplicaMade { group, node, incarnation },
    ]
}

/// `body` as an encoder would have sealed it.
fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c(&body);
    body.extend_from_slice(&checksum.to_le_bytes());
    body
}

/// Each command as the only one of a proposal, which is read back before its bytes are returned.
fn encoded_alone(commands: Vec<Command>) -> Vec<String> {
    let encode = |command| {
        let proposal = Proposal { stamped_at: Timestamp(300), commands: vec![command] };
        let encoded = proposal.encode();
        assert_eq!(Proposal::decode(&encoded), Ok(proposal));
        hex::encode(&encoded)
    };
    commands.into_iter().map(encode).collect()
}

#[test]
fn every_command_has_its_golden_bytes() {
    assert_eq!(encoded_alone(every_command()), GOLDEN_COMMANDS);
}

#[test]
fn every_topology_change_has_its_golden_bytes() {
    let changes = every_topology_change().into_iter().map(Command::ChangeTopology).collect();
    assert_eq!(encoded_alone(changes), GOLDEN_TOPOLOGY_CHANGES);
}

#[test]
fn the_topology_that_is_kept_has_its_golden_bytes() {
    let key = keys::topology();
    let encoded = topology().encode(&key);
    assert_eq!(Topology::decode(&key, &encoded).unwrap(), topology());
    assert_eq!(hex::encode(&encoded), GOLDEN_TOPOLOGY);
}

#[test]
fn any_flipped_bit_is_noticed() {
    let proposal = Proposal { stamped_at: Timestamp(300), commands: every_command() };
    let encoded = proposal.encode();
    for place in 0..encoded.len() * 8 {
        let mut damaged = encoded.to_vec();
        damaged[place / 8] ^= 1 << (place % 8);
        let decoded = <Proposal>::decode(&damaged);
        assert!(matches!(decoded, Err(DecodeError::Damaged { .. })), "bit {place}: {decoded:?}");
    }
}

#[test]
fn any_shortened_proposal_is_noticed() {
    let encoded = Proposal { stamped_at: Timestamp(300), commands: every_command() }.encode();
    for length in 0..encoded.len() {
        let decoded = <Proposal>::decode(&encoded[..length]);
        assert!(matches!(decoded, Err(DecodeError::Damaged { .. })), "{length}: {decoded:?}");
    }
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let decoded = <Proposal>::decode(&sealed(vec![2, 0, 0]));
    assert_eq!(decoded, Err(DecodeError::NewerVersion { found: 2, known: 1 }));
}

#[test]
fn an_unknown_command_is_told_from_damage() {
    // Stamp 0, one command, tag 5, and what might follow it.
    let decoded = <Proposal>::decode(&sealed(vec![1, 0, 1, 5, 99, 99]));
    assert_eq!(decoded, Err(DecodeError::UnknownCommand { tag: 5, known: 5 }));
}

#[test]
fn an_unknown_change_of_topology_is_told_from_damage() {
    let decoded = <Proposal>::decode(&sealed(vec![1, 0, 1, 4, 5, 0]));
    assert!(matches!(decoded, Err(DecodeError::Malformed { .. })), "{decoded:?}");
}

#[test]
fn surplus_and_missing_bytes_are_malformed() {
    for body in [vec![1, 0, 0, 7], vec![1, 0, 1], vec![1], vec![0, 0, 0], vec![1, 0, 200, 1]] {
        let decoded = <Proposal>::decode(&sealed(body.clone()));
        assert!(matches!(decoded, Err(DecodeError::Malformed { .. })), "{body:?}: {decoded:?}");
    }
}

const GOLDEN_COMMANDS: [&str; 5] = [
    "01ac02010001010207eb9541a1",
    "01ac02010104726f6f6d05616c69636501026964808c8d9e02020a746578742f706c61696e0101680201\
     020568656c6c6fccf6c6d3090103027470aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa010401ac0201ab0201\
     7301703405e657",
    "01ac02010204726f6f6d01730169808ece1cb858ef9c",
    "01ac02010309130041be",
    "01ac0201040082020301010103633a3103703a3203683a33017a01010100000101010102014a3613fe",
];

const GOLDEN_TOPOLOGY: &str =
    "0182020301010103633a3103703a3203683a33017a010101000001010101020173769534";

const GOLDEN_TOPOLOGY_CHANGES: [&str; 5] = [
    "01ac0201040082020301010103633a3103703a3203683a33017a01010100000101010102014a3613fe",
    "01ac02010401050795d88d",
    "01ac020104020103633a3103703a3203683a33017a0190b59757",
    "01ac020104030506071ccd372e",
    "01ac02010404050607d6753737",
];
