//! What upstream denies sidecache's own user costs a warning and what cannot be had without it, no more.

use crate::support::{Kind, Server, Sidecar, V, eventually};

/// How often INFO was denied.
fn denials(server: &Server) -> u64 {
    let stats = server.info("commandstats");
    let Some(line) = stats.get("cmdstat_info") else { return 0 };
    let rejected = line.split(',').find_map(|part| part.strip_prefix("rejected_calls="));
    rejected.expect("rejected_calls= in INFO commandstats").parse().unwrap()
}

#[test]
fn without_the_right_to_info_there_is_one_warning_and_hits_and_readiness_all_the_same() {
    for kind in [Kind::Redis, Kind::Valkey] {
        let server = Server::with(kind, &[]);
        server.outside("ACL SETUSER app on >secret ~* &* +@all -info");
        let own = "upstream.user = 'app'\nupstream.password = 'secret'\ncache.max_staleness = '300ms'";
        let sidecar = Sidecar::start(&server, own);
        sidecar.allow_log("upstream denies INFO");
        let mut conn = sidecar.conn();
        assert_eq!(conn.pipeline(&["SET k old", "HSET h f v"]), [V::Simple("OK".into()), V::Int(1)]);
        let read = |conn: &mut crate::support::Conn| {
            assert_eq!(conn.line("GET k"), V::bulk("old"));
            assert_eq!(conn.line("HGETALL h"), V::Array(vec![V::bulk("f"), V::bulk("v")]));
        };
        eventually("polls are denied again and again", || {
            read(&mut conn);
            denials(&server) >= 6
        });
        server.reset_calls();
        let hits = || sidecar.metric("sidecache_commands_total{class=\"read\",outcome=\"hit\"}");
        let before = hits();
        // Such fields may expire untold: replies about hashes live no longer than the bound on staleness.
        eventually("there are hits, and hashes are read anew", || {
            read(&mut conn);
            server.calls("hgetall") >= 3 && hits() >= before + 10.0
        });
        let told = sidecar.logs().iter().filter(|line| line.contains("upstream denies INFO")).count();
        assert_eq!((told, sidecar.http("/readyz").0), (1, 200));
        eventually("a denial is an answer", || sidecar.metric("sidecache_upstream_up") == 1.0);
        assert!(matches!(conn.line("INFO"), V::Error(text) if text.starts_with("NOPERM")));
        // Given the right after all, the polls see what only they can see.
        server.outside("ACL SETUSER app +info");
        server.conn().pipeline(&["SELECT 1", "SET k new"]);
        server.outside("SWAPDB 0 1");
        eventually("the swap is noticed", || conn.line("GET k") == V::bulk("new"));
    }
}
