//! The table of the service's methods: each has one row with its name on the wire, its effect on
//! rows, its request and its reply. Everything else about methods is generated from these rows.

use thrift::ApplicationErrorKind;
use thrift::protocol::{TInputProtocol, TOutputProtocol, TSerializable};

use super::generated::*;

/// Answers a call in place of its reply when the message cannot be understood or the handler
/// panicked. A failed operation is never reported this way, but inside the reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ThriftException {
    /// The kind of failure, as Thrift numbers them.
    pub kind: ApplicationErrorKind,
    /// The failure in words, for people.
    pub message: String,
}

impl ThriftException {
    /// An exception of this kind with this text.
    pub fn new(kind: ApplicationErrorKind, message: impl Into<String>) -> Self {
        ThriftException { kind, message: message.into() }
    }
}

/// A request struct that belongs to one method.
pub trait ThriftRequest: Sized + Into<ThriftCall> {
    /// The response struct of the same method.
    type Response;
    /// The method that this request calls.
    const METHOD: Method;

    /// Unwraps the reply of this request's method.
    ///
    /// # Errors
    /// Any other reply comes back unchanged.
    #[allow(clippy::result_large_err, reason = "both sides are as large")]
    fn response_of(reply: ThriftReply) -> Result<Self::Response, ThriftReply>;
}

/// The effect of a method on rows. The server uses it to order the calls of a connection (a read
/// sees every earlier write) and to group its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// Reads rows, or the version that later reads use.
    Read,
    /// Writes rows.
    Write,
    /// Touches no rows.
    Other,
}

macro_rules! methods {
    ($($variant:ident $name:literal $kind:ident $request:ident => $response:ident;)*) => {
        /// A method of the service.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method { $($variant,)* }

        impl Method {
            /// All methods, each at the index that it has as a number (`method as usize`).
            pub const ALL: &'static [Method] = &[$(Method::$variant,)*];

            /// The method's name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Method::$variant => $name,)* }
            }

            /// The effect of the method on rows.
            pub fn kind(self) -> MethodKind {
                match self { $(Method::$variant => MethodKind::$kind,)* }
            }

            /// The method of this name, or `None` if the service has none.
            pub fn of_name(name: &[u8]) -> Option<Method> {
                $(if name == $name.as_bytes() { return Some(Method::$variant); })*
                None
            }
        }

        /// A request as it arrived, one variant per method.
        #[derive(Clone, Debug, PartialEq)]
        pub enum ThriftCall { $($variant($request),)* }

        impl ThriftCall {
            /// The method that is called.
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

        /// A reply, one variant per method. A call is answered by the variant of its own name, or
        /// by an exception.
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

            /// Writes the response struct. An exception has none: the message writer encodes it.
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
    Get "get" Read GetRequest => GetResponse;
    SetKey "setKey" Write SetRequest => SetResponse;
    GetReadVersion "getReadVersion" Read GetReadVersionRequest => GetReadVersionResponse;
    AtomicCommit "atomicCommit" Write AtomicCommitRequest => AtomicCommitResponse;
    SnapshotRead "snapshotRead" Read SnapshotReadRequest => SnapshotReadResponse;
    SnapshotGet "snapshotGet" Read SnapshotGetRequest => SnapshotGetResponse;
    SnapshotGetRange "snapshotGetRange" Read SnapshotGetRangeRequest => SnapshotGetRangeResponse;
    GetRange "getRange" Read GetRangeRequest => GetRangeResponse;
    DeleteKey "deleteKey" Write DeleteRequest => DeleteResponse;
    Ping "ping" Other PingRequest => PingResponse;
    Authenticate "authenticate" Other AuthenticateRequest => AuthenticateResponse;
    SetVersionstampedKey "setVersionstampedKey" Write SetVersionstampedKeyRequest => SetVersionstampedKeyResponse;
    SetVersionstampedValue "setVersionstampedValue" Write SetVersionstampedValueRequest => SetVersionstampedValueResponse;
    AddReadConflict "addReadConflict" Other AddReadConflictRequest => AddReadConflictResponse;
    AddReadConflictRange "addReadConflictRange" Other AddReadConflictRangeRequest => AddReadConflictRangeResponse;
    SetReadVersion "setReadVersion" Other SetReadVersionRequest => SetReadVersionResponse;
    GetCommittedVersion "getCommittedVersion" Other GetCommittedVersionRequest => GetCommittedVersionResponse;
    SetFaultInjection "setFaultInjection" Other FaultInjectionRequest => FaultInjectionResponse;
    GetClusterHealth "getClusterHealth" Other GetClusterHealthRequest => GetClusterHealthResponse;
    GetDatabaseStats "getDatabaseStats" Other GetDatabaseStatsRequest => GetDatabaseStatsResponse;
    GetNodeInfo "getNodeInfo" Other GetNodeInfoRequest => GetNodeInfoResponse;
    PinSnapshot "pinSnapshot" Other PinSnapshotRequest => PinSnapshotResponse;
    UnpinSnapshot "unpinSnapshot" Other UnpinSnapshotRequest => UnpinSnapshotResponse;
    PollChanges "pollChanges" Read PollChangesRequest => PollChangesResponse;
    WatchKeys "watchKeys" Read WatchKeysRequest => WatchKeysResponse;
}
