//! The one seam where a call is allowed or refused. Every handler passes it before it looks at anything else.

use super::errors::CallError;

/// Everything that can be asked of a node: one variant for each RPC of `quorate.v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// `MessageLog.Append`.
    Append,
    /// `MessageLog.AppendSession`.
    AppendSession,
    /// `MessageLog.Read`.
    Read,
    /// `MessageLog.BatchRead`.
    BatchRead,
    /// `MessageLog.Follow`.
    Follow,
    /// `MessageLog.Subscribe`.
    Subscribe,
    /// `MessageLog.GetOutcome`.
    GetOutcome,
    /// `MessageLog.Describe`.
    Describe,
    /// `MessageLog.List`.
    List,
    /// `Cluster.Init`.
    Init,
    /// `Cluster.DescribeCluster`.
    DescribeCluster,
    /// `Cluster.WatchTopology`.
    WatchTopology,
    /// `Cluster.Replace`.
    Replace,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 13] = [
        Operation::Append,
        Operation::AppendSession,
        Operation::Read,
        Operation::BatchRead,
        Operation::Follow,
        Operation::Subscribe,
        Operation::GetOutcome,
        Operation::Describe,
        Operation::List,
        Operation::Init,
        Operation::DescribeCluster,
        Operation::WatchTopology,
        Operation::Replace,
    ];

    /// The RPC's name within its service: what metrics and logs call it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Append => "Append",
            Operation::AppendSession => "AppendSession",
            Operation::Read => "Read",
            Operation::BatchRead => "BatchRead",
            Operation::Follow => "Follow",
            Operation::Subscribe => "Subscribe",
            Operation::GetOutcome => "GetOutcome",
            Operation::Describe => "Describe",
            Operation::List => "List",
            Operation::Init => "Init",
            Operation::DescribeCluster => "DescribeCluster",
            Operation::WatchTopology => "WatchTopology",
            Operation::Replace => "Replace",
        }
    }

    /// The service that the RPC belongs to.
    pub fn service(self) -> &'static str {
        match self {
            Operation::Init
            | Operation::DescribeCluster
            | Operation::WatchTopology
            | Operation::Replace => "quorate.v1.Cluster",
            _ => "quorate.v1.MessageLog",
        }
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody said who.
    Anonymous,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// One conversation, as the caller named it: not validated yet.
    Conversation(&'a str),
    /// Conversations that the call names one by one; each is also authorized on its own.
    Conversations,
    /// All conversations whose names start with this.
    Prefix(&'a str),
    /// Nodes, groups and their placement.
    Cluster,
}

/// Decides who may do what.
pub trait Authorizer: Send + Sync {
    /// Whether `principal` may do `operation` to `resource`. Answers from memory: it is asked for each message of
    /// a session.
    fn allows(&self, principal: &Principal, operation: Operation, resource: Resource<'_>) -> bool;
}

/// Everybody may do everything.
pub struct AllowAll;

impl Authorizer for AllowAll {
    fn allows(&self, _: &Principal, _: Operation, _: Resource<'_>) -> bool {
        true
    }
}

/// Passes if `principal` may do `operation` to `resource`.
///
/// # Errors
/// PERMISSION_DENIED otherwise. Nothing happened.
pub fn authorize(
    authorizer: &dyn Authorizer,
    principal: &Principal,
    operation: Operation,
    resource: Resource<'_>,
) -> Result<(), CallError> {
    match authorizer.allows(principal, operation, resource) {
        true => Ok(()),
        false => Err(CallError::denied(operation)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_rpc_of_the_api_is_an_operation_and_the_other_way_round() {
        let files = FileDescriptorSet::decode(quorate_client::proto::DESCRIPTORS).unwrap();
        let mut described = BTreeSet::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let service = format!("{}.{}", file.package(), service.name());
                    described.insert((service, method.name().to_owned()));
                }
            }
        }
        let known: BTreeSet<_> = Operation::ALL
            .iter()
            .map(|operation| (operation.service().to_owned(), operation.name().to_owned()))
            .collect();
        assert_eq!(described, known);
    }

    #[test]
    fn what_is_not_allowed_is_denied_without_effect() {
        struct OnlyReads;
        impl Authorizer for OnlyReads {
            fn allows(&self, _: &Principal, operation: Operation, _: Resource<'_>) -> bool {
                operation == Operation::Read
            }
        }
        let ask = |operation| {
            authorize(&OnlyReads, &Principal::Anonymous, operation, Resource::Conversation("a"))
        };
        assert!(ask(Operation::Read).is_ok());
        let denied = ask(Operation::Append).unwrap_err();
        assert_eq!(denied.code(), tonic::Code::PermissionDenied);
        assert!(!denied.is_retryable() && !denied.may_have_taken_effect());
    }
}
