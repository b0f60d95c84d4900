//! Every method of the service once: its name on the wire, its request and its reply.

use thrift::ApplicationErrorKind;
use thrift::protocol::{TInputProtocol, TOutputProtocol, TSerializable};

use super::generated::*;

/// What a server answers instead of a reply when a message cannot be understood, or a handler broke. Failures of an
/// operation never come this way: they stand inside the reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ThriftException {
    pub kind: ApplicationErrorKind,
    pub message: String,
}

impl ThriftException {
    pub fn new(kind: ApplicationErrorKind, message: impl Into<String>) -> Self {
        ThriftException { kind, message: message.into() }
    }
}

/// A request struct that belongs to one method.
pub trait ThriftRequest: Sized + Into<ThriftCall> {
    type Response;
    const METHOD: Method;

    /// The reply of this request's method; any other reply comes back as it was.
    #[allow(clippy::result_large_err, reason = "both sides are as large")]
    fn response_of(reply: ThriftReply) -> Result<Self::Response, ThriftReply>;
}

macro_rules! methods {
    ($($variant:ident $name:literal $request:ident => $response:ident;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method { $($variant,)* }

        impl Method {
            pub const ALL: &'static [Method] = &[$(Method::$variant,)*];

            /// The method's name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Method::$variant => $name,)* }
            }

            pub fn of_name(name: &[u8]) -> Option<Method> {
                $(if name == $name.as_bytes() { return Some(Method::$variant); })*
                None
            }
        }

        /// A request as it came in, one variant per method.
        #[derive(Clone, Debug, PartialEq)]
        pub enum ThriftCall { $($variant($request),)* }

        impl ThriftCall {
            pub fn method(&self) -> Method {
                match self { $(ThriftCall::$variant(_) => Method::$variant,)* }
            }

            pub(super) fn read_request(method: Method, input: &mut dyn TInputProtocol) -> thrift::Result<Self> {
                Ok(match method {
                    $(Method::$variant => ThriftCall::$variant($request::read_from_in_protocol(input)?),)*
                })
            }

            pub(super) fn write_request(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
                match self { $(ThriftCall::$variant(request) => request.write_to_out_protocol(output),)* }
            }
        }

        /// What goes back, one variant per method; a call is answered by the variant of its own name.
        #[derive(Clone, Debug, PartialEq)]
        pub enum ThriftReply {
            $($variant($response),)*
            Exception(ThriftException),
        }

        impl ThriftReply {
            /// The method that this answers; an exception answers any.
            pub fn method(&self) -> Option<Method> {
                match self {
                    $(ThriftReply::$variant(_) => Some(Method::$variant),)*
                    ThriftReply::Exception(_) => None,
                }
            }

            pub(super) fn read_response(method: Method, input: &mut dyn TInputProtocol) -> thrift::Result<Self> {
                Ok(match method {
                    $(Method::$variant => ThriftReply::$variant($response::read_from_in_protocol(input)?),)*
                })
            }

            /// Writes the response struct; an exception is the message writer's affair and has none.
            pub(super) fn write_response(&self, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
                match self {
                    $(ThriftReply::$variant(response) => response.write_to_out_protocol(output),)*
                    ThriftReply::Exception(exception) => Err(exception.message.clone().into()),
                }
            }
        }

        $(
            impl From<$request> for ThriftCall {
                fn from(request: $request) -> Self {
                    ThriftCall::$variant(request)
                }
            }

            impl From<$response> for ThriftReply {
                fn from(response: $response) -> Self {
                    ThriftReply::$variant(response)
                }
            }

            impl ThriftRequest for $request {
                type Response = $response;
                const METHOD: Method = Method::$variant;

                #[allow(clippy::result_large_err, reason = "both sides are as large")]
                fn response_of(reply: ThriftReply) -> Result<$response, ThriftReply> {
                    match reply {
                        ThriftReply::$variant(response) => Ok(response),
                        other => Err(other),
                    }
                }
            }
        )*
    };
}

methods! {
    Get "get" GetRequest => GetResponse;
    SetKey "setKey" SetRequest => SetResponse;
    GetReadVersion "getReadVersion" GetReadVersionRequest => GetReadVersionResponse;
    AtomicCommit "atomicCommit" AtomicCommitRequest => AtomicCommitResponse;
    SnapshotRead "snapshotRead" SnapshotReadRequest => SnapshotReadResponse;
    SnapshotGet "snapshotGet" SnapshotGetRequest => SnapshotGetResponse;
    SnapshotGetRange "snapshotGetRange" SnapshotGetRangeRequest => SnapshotGetRangeResponse;
    GetRange "getRange" GetRangeRequest => GetRangeResponse;
    DeleteKey "deleteKey" DeleteRequest => DeleteResponse;
    Ping "ping" PingRequest => PingResponse;
    SetVersionstampedKey "setVersionstampedKey" SetVersionstampedKeyRequest => SetVersionstampedKeyResponse;
    SetVersionstampedValue "setVersionstampedValue" SetVersionstampedValueRequest => SetVersionstampedValueResponse;
    AddReadConflict "addReadConflict" AddReadConflictRequest => AddReadConflictResponse;
    AddReadConflictRange "addReadConflictRange" AddReadConflictRangeRequest => AddReadConflictRangeResponse;
    SetReadVersion "setReadVersion" SetReadVersionRequest => SetReadVersionResponse;
    GetCommittedVersion "getCommittedVersion" GetCommittedVersionRequest => GetCommittedVersionResponse;
    SetFaultInjection "setFaultInjection" FaultInjectionRequest => FaultInjectionResponse;
    GetClusterHealth "getClusterHealth" GetClusterHealthRequest => GetClusterHealthResponse;
    GetDatabaseStats "getDatabaseStats" GetDatabaseStatsRequest => GetDatabaseStatsResponse;
    GetNodeInfo "getNodeInfo" GetNodeInfoRequest => GetNodeInfoResponse;
    PinSnapshot "pinSnapshot" PinSnapshotRequest => PinSnapshotResponse;
    UnpinSnapshot "unpinSnapshot" UnpinSnapshotRequest => UnpinSnapshotResponse;
}
