//! Which lane a command takes: those of one client for one node all take the same.

use super::{PATIENT, behind, hits, keep_the_map_from, mapped};
use crate::support::{Cluster, Conn, Dir, Kind, Link, Sidecar, V, eventually};

fn ok() -> V {
    V::Simple("OK".into())
}

/// Keys of different slots, all of this master.
fn keys_on(cluster: &Cluster, at: usize, count: usize) -> Vec<String> {
    let mut slots = Vec::new();
    let keys = (0..).map(|n| format!("k{n}")).filter(|key| cluster.owner_of(key) == at);
    keys.filter(|key| {
        let slot = cluster.slot(key);
        let is_other = !slots.contains(&slot);
        slots.push(slot);
        is_other
    })
    .take(count)
    .collect()
}

/// There are several to each node, of two workers and two users; what one client sends must not be spread over them, or it
/// would be executed in another order.
#[test]
fn what_one_client_sends_to_a_node_takes_one_lane_whatever_the_slot() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    (0..2).for_each(|at| {
        assert_eq!(cluster.node(at).conn().line("ACL SETUSER app on >secret ~* &* +@all"), ok());
    });
    let links = [0, 1].map(|at| Link::to(cluster.node(at).addr()));
    let toml = format!("{PATIENT}\nthreads = 2\n{}", mapped(&cluster, &links));
    let sidecar = Sidecar::start(&*behind(&links), &toml);
    let keys = [0, 1].map(|at| keys_on(&cluster, at, 6));
    let mut clients: Vec<Conn> = (0..8).map(|_| sidecar.conn()).collect();
    for client in &mut clients[4..] {
        assert_eq!(client.line("AUTH app secret"), ok());
    }
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            let lines: Vec<String> = (0..6)
                .flat_map(|key| keys.each_ref().map(|keys| keys[key].clone()))
                .flat_map(|key| {
                    let mine = format!("of-{number}-");
                    [
                        format!("SET {key} {mine}{round}"),
                        format!("GETRANGE {{{key}}}{mine} 0 1"),
                        format!("MULTI|APPEND {key} {mine}|EXEC"),
                        format!("GET {{{key}}}{mine}{round}"),
                    ]
                })
                .flat_map(|lines| lines.split('|').map(str::to_string).collect::<Vec<_>>())
                .collect();
            let replies = client.pipeline(&lines.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(!replies.iter().any(|reply| matches!(reply, V::Error(_))), "{replies:?}");
        }
    }
    for link in &links {
        let lanes = link.those(|connection| connection.said(Dir::ToServer, "TRACKING"));
        let of: Vec<Vec<usize>> = (0..clients.len())
            .map(|number| {
                let mark = format!("of-{number}-");
                (0..lanes.len()).filter(|&lane| lanes[lane].said(Dir::ToServer, &mark)).collect()
            })
            .collect();
        assert!(of.iter().all(|lanes| lanes.len() == 1), "{of:?}");
        let mut used = of.concat();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), 4, "each worker has one for each user: {of:?}");
        assert!(of[..4].iter().all(|lane| !of[4..].contains(lane)), "{of:?}");
    }
}

/// The other worker's word is all that it has: nobody answers who asks for the map.
#[test]
fn a_worker_goes_by_what_a_redirect_has_told_another() {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let links = [0, 1].map(|at| Link::to(cluster.node(at).addr()));
    let toml = format!("{PATIENT}\nthreads = 2\n{}", mapped(&cluster, &links));
    let sidecar = Sidecar::start(&*behind(&links), &toml);
    eventually("the harness's own client has left", || sidecar.metric("sidecache_clients") == 0.0);
    let [key, other] = [0, 1].map(|at| cluster.key_on(at, "k"));
    // On a worker each, with lanes to both nodes; the second has something that news must not overtake.
    let [mut told, mut untold] = [sidecar.conn(), sidecar.conn()];
    for client in [&mut told, &mut untold] {
        assert_eq!([client.line(&format!("SET {key} 0")), client.line(&format!("SET {other} 0"))], [ok(), ok()]);
    }
    eventually("it is a hit", || {
        let before = hits(&sidecar);
        assert_eq!(untold.line(&format!("GET {other}")), V::bulk("0"));
        hits(&sidecar) > before
    });
    keep_the_map_from(&sidecar, &links);
    cluster.migrate_slot(cluster.slot(&key), 0, 1);
    let moved = || sidecar.metric("sidecache_redirects_total{kind=\"moved\"}");
    assert_eq!(moved(), 0.0);
    assert_eq!(told.line(&format!("SET {key} 1")), ok());
    assert_eq!(moved(), 1.0);
    // Its answer waits until the other worker has looked at all that it was told before.
    assert_eq!(told.ask(&["EVAL", "return 1", "1", &other]), V::Int(1));
    assert_eq!(untold.line(&format!("GET {key}")), V::bulk("1"));
    assert_eq!(untold.line(&format!("SET {key} 2")), ok());
    assert_eq!(moved(), 1.0);
}
