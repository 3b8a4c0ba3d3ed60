//! Units with drop-ins, links, templates and mounts; fleet's placement; and the units of the machine, if it has some.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::import::tests::{AT_MS, assert_lines, file, graph, lines, reads};
use crate::import::{detect_and_read, read};
use crate::model::Class;
use crate::testing::key;

#[test]
fn directives_have_their_classes() {
    let graph = graph(reads("systemd/system", &Options::default()));
    assert_lines(
        &graph,
        "workload:shop-api.service",
        10,
        &[
            "workload:shop-api.service -> workload:postgresql.service hard",
            "workload:shop-api.service -> workload:shop-tunnel.service hard",
            "workload:shop-api.service -> workload:shop.target hard",
            "workload:shop-api.service -> workload:network-online.target ordering",
            "workload:shop-api.service -> volume:srv-shop-uploads.mount hard",
            // From the drop-in.
            "workload:shop-api.service -> workload:redis.service soft",
            "workload:shop-api.service -> workload:license.service hard",
            // Wanted instances stand in for each other.
            "workload:shop-api.service -> workload:shop-worker@2.service soft shop-worker@.service/1of?",
        ],
    );
    assert_lines(&graph, "nginx.service", 1, &["workload:nginx.service -> workload:shop-api.service ordering"]);
    let said = |to: &str| {
        let edge = graph.edges().map(|e| graph.edge(e)).find(|e| e.from == key("workload:shop-api.service") && e.to == key(to));
        edge.expect("there").claims[0].says.attributes.clone().expect("directives")
    };
    let both = said("workload:shop-tunnel.service");
    assert_eq!((&both["directives"], &both["reaches"]), (&json!(["BindsTo", "After"]), &json!(["start", "stop", "restart", "crash"])));
    assert_eq!(said("workload:license.service")["reaches"], json!(["start"]));
    let api = graph.node(graph.get(&key("workload:shop-api.service")).expect("there"));
    assert_eq!(api.description, "API of the shop (shop-api)");
    assert_eq!(api.attributes["conflicts"], json!(["shop-api-maintenance.service"]));
    assert_eq!(api.attributes["on_failure"], json!(["notify@shop-api.service.service"]));
    assert!(graph.find(&key("workload:shop-api-maintenance.service")).is_none());
}

#[test]
fn links_templates_and_triggers() {
    let graph = graph(reads("systemd/system", &Options::default()));
    assert_lines(
        &graph,
        "multi-user.target",
        3,
        &[
            "workload:multi-user.target -> workload:nginx.service soft",
            "workload:multi-user.target -> workload:shop-api.service soft",
            // Nothing says that it is enabled.
            "workload:multi-user.target -> workload:shop.target soft confidence=0.5",
        ],
    );
    assert_lines(
        &graph,
        "shop-worker@.service",
        3,
        &["workload:shop-worker@.service => workload:shop-worker@3.service hard instances/1of?"],
    );
    assert_lines(&graph, "shop-worker@1.service", 1, &["workload:shop-worker@1.service -> workload:shop-queue@1.service hard"]);
    let instance = graph.node(graph.get(&key("workload:shop-queue@2.service")).expect("made, because it is named"));
    assert_eq!((instance.description.as_str(), &instance.attributes["template"]), ("Queue of worker 2", &json!("shop-queue@.service")));
    assert_lines(
        &graph,
        "backup.service",
        2,
        &[
            "workload:backup.service -> workload:backup.timer hard",
            "workload:backup.service -> volume:srv-backup.mount hard confidence=0.3",
        ],
    );
    assert!(lines(&graph, "admin.socket").contains("workload:admin.socket -> workload:admin@.service hard"));
    assert!(lines(&graph, "metrics.socket").contains("workload:metrics.socket -> workload:exporter.service hard"));
    let timer = graph.get(&key("workload:nightly.timer")).expect("another name");
    assert_eq!(graph.key(timer), &key("workload:backup.timer"));
    let masked = graph.node(graph.get(&key("workload:ctrl-alt-del.target")).expect("there"));
    assert_eq!(masked.attributes["masked"], json!(true));
}

#[test]
fn fleet_places_units() {
    let graph = graph(reads("fleet", &Options::default()));
    assert_lines(
        &graph,
        "workload:web@1.service",
        3,
        &[
            "workload:web@1.service -> workload:docker.service hard",
            "workload:web@1.service -> zone:eu-1a hard zone/1of?",
            "workload:web@1.service -> zone:eu-1b hard zone/1of?",
        ],
    );
    assert_lines(&graph, "workload:web@.service", 2, &["workload:web@.service => workload:web@2.service hard instances/1of?"]);
    assert_lines(&graph, "web-discovery@2.service", 1, &["workload:web-discovery@2.service -> workload:web@2.service hard"]);
    assert_lines(
        &graph,
        "balancer.service",
        3,
        &["workload:balancer.service -> host:8a3b1f hard", "workload:balancer.service -> workload:web@1.service soft web@.service/1of?"],
    );
    let node = |id: &str| graph.node(graph.get(&key(id)).expect("there")).attributes;
    let side = node("workload:web-discovery@1.service");
    assert_eq!((&side["sidekick_of"], &side["lease_ttl_s"]), (&json!(["web@1.service"]), &json!(30)));
    let web = node("workload:web@1.service");
    assert_eq!((&web["not_on_machines_of"], &web["scheduler"]), (&json!(["web@*.service"]), &json!("fleet")));
    assert_eq!(node("workload:node-agent.service")["global"], json!(true));
}

#[test]
fn units_of_a_host_fail_with_it() {
    let options = Options { host: Some("web-1".into()), ..Options::default() };
    let reads = reads("systemd/system", &options);
    assert_eq!(reads[0].events[0].scope, "web-1:units");
    let graph = graph(reads);
    assert!(lines(&graph, "nginx.service").len() == 1 && lines(&graph, "").contains("workload:web-1/shop-api.service -> host:web-1 hard"));
}

#[test]
fn the_unit_that_systemd_would_take_counts() {
    let files = [
        file("usr/lib/systemd/system/a.service", "[Unit]\nRequires=old.service"),
        file("etc/systemd/system/a.service", "[Unit]\nRequires=new.service"),
        file("etc/systemd/system/service.d/all.conf", "[Unit]\nWants=agent.service"),
        file("etc/systemd/system/a-.service.d/x.conf", "[Unit]\nWants=prefix.service"),
        file("usr/lib/systemd/system/a-b.service", "[Unit]\nPropagatesStopTo=c.service"),
    ];
    let graph = graph(read(&files, &Options::default(), AT_MS));
    assert_lines(
        &graph,
        "workload:a.service",
        2,
        &["workload:a.service -> workload:new.service hard", "workload:a.service -> workload:agent.service soft"],
    );
    assert_lines(&graph, "workload:a-b.service", 2, &["workload:a-b.service -> workload:prefix.service soft"]);
    assert_lines(&graph, "workload:c.service", 1, &["workload:c.service -> workload:a-b.service hard"]);
}

/// Debian's own units, where they are installed: nothing is left out, and what only orders is no dependency.
#[test]
fn units_of_this_machine() {
    let folder = Path::new("/lib/systemd/system");
    if !folder.join("basic.target").is_file() {
        return;
    }
    let reads = detect_and_read(folder, &Options::default(), AT_MS).expect("readable");
    assert!(reads.iter().all(|r| r.error.is_none()));
    let graph = graph(reads);
    assert!(graph.node_count() > 50);
    let basic =
        graph.edges().map(|e| graph.edge(e)).find(|e| e.from == key("workload:basic.target") && e.to == key("workload:sysinit.target"));
    assert_eq!(basic.expect("basic.target requires sysinit.target").class, Class::Hard);
    let reboot = graph.get(&key("workload:reboot.target"));
    assert!(reboot.is_err() || reboot.ok() != graph.find(&key("workload:poweroff.target")), "a wish for a name makes no alias");
}
