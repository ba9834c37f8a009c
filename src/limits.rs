//! Limits on what clients and upstream may send, as Redis has them.

/// Limits on one request. Before authentication they are small, so that a stranger cannot make us hold much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Most elements of a multibulk request.
    pub elements: usize,
    /// Most bytes of one bulk string.
    pub bulk: usize,
    /// Most bytes of an inline request or of a header line.
    pub inline: usize,
    /// Most bytes of a whole request (Redis: client-query-buffer-limit, 1 GiB).
    pub total: usize,
}

/// Redis's own limits for an authenticated client (networking.c: PROTO_INLINE_MAX_SIZE, proto-max-bulk-len).
pub const AUTHENTICATED: RequestLimits =
    RequestLimits { elements: 1024 * 1024, bulk: 512 * 1024 * 1024, inline: 64 * 1024, total: 1024 * 1024 * 1024 };

/// Redis's own limits before authentication (networking.c, processMultibulkBuffer).
pub const UNAUTHENTICATED: RequestLimits =
    RequestLimits { elements: 10, bulk: 16 * 1024, inline: 64 * 1024, total: 1024 * 1024 };

/// Deepest nesting of a reply. A script nests its reply as deep as Lua's stack allows: 8000 levels (luaconf.h,
/// LUAI_MAXCSTACK), the last of which says that there are no more.
pub const REPLY_DEPTH: usize = 8192;

/// Deepest nesting of a reply that is decoded, which costs stack; what upstream tells about itself has a few levels.
pub const DECODED_DEPTH: usize = 128;
