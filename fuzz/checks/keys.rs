//! Where keys stand: whatever the arguments, a key is one of them, and looking for it does no harm.

use sidecache::command::{Row, index, look_up};
use sidecache::limits::AUTHENTICATED;
use sidecache::protocol::Args;
use sidecache::protocol::request::{Parsed, RequestParser};

/// Asks the row that a request names, and one that it does not name, for the request's keys.
pub fn check(data: &[u8]) {
    let [choice, bytes @ ..] = data else { return };
    let mut parser = RequestParser::default();
    let (request, len) = match parser.parse(bytes, &AUTHENTICATED) {
        Ok(Parsed::Request { len }) => (bytes.to_vec(), len),
        Ok(Parsed::Inline { request, .. }) => {
            let len = request.len();
            (request, len)
        }
        _ => return,
    };
    let args = parser.args(&request[..len]);
    let any = index::rows().nth(usize::from(*choice) % index::rows().count());
    for row in look_up(&args).into_iter().chain(any) {
        ask(row, &args);
    }
}

fn ask(row: &Row, args: &Args<'_>) {
    let all: Vec<&[u8]> = (0..args.len()).filter_map(|i| args.get(i)).collect();
    let mut keys = Vec::new();
    let told = row.each_key(args, |key| keys.push(key));
    assert!(told || keys.is_empty(), "{}: keys of what cannot be told", row.name);
    assert!(keys.len() <= all.len(), "{}: more keys than arguments", row.name);
    // By place, not by content: a key is a part of the request itself.
    assert!(keys.iter().all(|key| all.iter().any(|arg| std::ptr::eq(*arg, *key))), "{}: a key from nowhere", row.name);
    if let Some(key) = row.single_key(args) {
        assert_eq!(keys, [key], "{}: the only key is not the only one", row.name);
    }
    let _ = (row.class(args), row.arity_ok(args.len()), row.shape_of(args));
    let _ = (row.lane_safe(args), row.lane_safe_in_multi(args), row.brings_news(args));
}
