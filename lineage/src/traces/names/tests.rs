//! Tests of the names that spans have.

use super::*;

fn id(key: &Option<NodeKey>) -> &str {
    key.as_ref().map_or("", NodeKey::as_str)
}

fn tables(span: &SpanAttributes<'_>) -> String {
    let found = database(span, &Renames::default()).expect("names a system");
    found.tables.iter().map(|(t, w)| format!("{t}{}", if *w { "!" } else { "" })).collect::<Vec<_>>().join(" ")
}

#[test]
fn databases_are_called_as_in_openlineage() {
    let base = || SpanAttributes { db_system: "postgresql", server_address: "DB", db_namespace: "shop", ..SpanAttributes::default() };
    let found = database(&base(), &Renames::default()).expect("names a system");
    assert_eq!((id(&found.server), id(&found.database)), ("database:postgres:%2F%2Fdb:5432", "database:postgres:%2F%2Fdb:5432/shop"));
    assert!(found.tables.is_empty() && !found.by_ip);
    let table = "dataset:postgres:%2F%2Fdb:5432/shop.public.orders";
    assert_eq!(tables(&SpanAttributes { db_collection: "orders", db_operation: "SELECT", ..base() }), table);
    assert_eq!(tables(&SpanAttributes { db_collection: "public.orders", db_summary: "INSERT orders", ..base() }), format!("{table}!"));
    assert_eq!(tables(&SpanAttributes { db_statement: "select * from \"orders\"", ..base() }), table);
    let other = SpanAttributes { db_namespace: "shop|sales", db_collection: "orders", server_port: 6432, ..base() };
    assert_eq!(tables(&other), "dataset:postgres:%2F%2Fdb:6432/shop.sales.orders");
    let mysql = SpanAttributes { db_system: "mysql", db_statement: "UPDATE orders SET a = 1", ..base() };
    assert_eq!(tables(&mysql), "dataset:mysql:%2F%2Fdb:3306/shop.orders!");
    let nameless = SpanAttributes { db_namespace: "", db_collection: "orders", ..base() };
    assert_eq!(tables(&nameless), "", "of which database nobody knows");
    let redis = SpanAttributes { db_system: "redis", db_namespace: "0", db_statement: "GET FROM x", ..base() };
    let found = database(&redis, &Renames::default()).expect("names a system");
    assert_eq!((id(&found.server), id(&found.database), found.tables.len()), ("database:redis:%2F%2Fdb:6379", "", 0));
    let ip = SpanAttributes { server_address: "10.0.0.7", ..base() };
    assert!(database(&ip, &Renames::default()).expect("names a system").by_ip);
    assert_eq!(database(&SpanAttributes::default(), &Renames::default()), None);
}

#[test]
fn topics_are_called_as_in_openlineage() {
    let base = || SpanAttributes { messaging_system: "kafka", messaging_destination: "orders", ..SpanAttributes::default() };
    let name = |span: &SpanAttributes<'_>| topic(span, &Renames::default()).map_or(String::new(), |t| t.topic.to_string());
    let full = "topic:kafka:%2F%2Fkafka:9092/orders";
    assert_eq!(name(&SpanAttributes { server_address: "kafka", ..base() }), full);
    assert_eq!(name(&SpanAttributes { server_address: "kafka", server_port: 9092, ..base() }), full);
    assert_eq!(name(&SpanAttributes { server_address: "kafka:9092", ..base() }), full);
    assert_eq!(name(&SpanAttributes { messaging_servers: "kafka:9092,kafka2:9092", ..base() }), full);
    assert_eq!(name(&base()), "topic:kafka/orders");
    assert_eq!(topic(&SpanAttributes { messaging_temporary: true, ..base() }, &Renames::default()), None);
    let renames = Renames(vec![(Regex::new(r"^kafka-\d+\.kafka:(\d+)$").expect("compiles"), "kafka:$1".into())]);
    let broker = topic(&SpanAttributes { server_address: "kafka-2.kafka", ..base() }, &renames).expect("names a topic");
    assert_eq!((broker.topic.as_str(), id(&broker.broker)), (full, "broker:kafka:%2F%2Fkafka:9092"));
}

#[test]
fn addresses_become_services_only_where_they_are_names() {
    let of = |span: SpanAttributes<'_>| peer(&span, &Renames::default());
    let named = |namespace: &str, name: &str| Peer::Named { namespace: namespace.into(), name: name.into() };
    let at = |server_address: &'static str| SpanAttributes { server_address, ..SpanAttributes::default() };
    assert_eq!(of(SpanAttributes { peer_service: "pay", peer_namespace: "shop", ..at("10.0.0.1") }), named("shop", "pay"));
    assert_eq!(of(at("payment.shop.svc.cluster.local")), named("shop", "payment"));
    assert_eq!(of(at("payment.shop.svc")), named("shop", "payment"));
    assert_eq!(of(SpanAttributes { server_port: 443, ..at("api.example.com") }), Peer::Host("api.example.com".into()));
    assert_eq!(of(SpanAttributes { server_port: 8443, ..at("api.example.com.") }), Peer::Host("api.example.com".into()));
    for ip in ["10.0.0.1", "::1", "[fd00::1]", "localhost", "127.0.0.1"] {
        assert_eq!(of(SpanAttributes { server_port: 8080, ..at(ip) }), Peer::Ip, "{ip}");
    }
    assert_eq!(of(SpanAttributes { peer_service: "10.0.0.1", ..SpanAttributes::default() }), Peer::Ip);
    for (url, expected) in [
        ("https://user:secret@api.example.com:8443/a?b", Peer::Host("api.example.com".into())),
        ("http://10.0.0.1/x", Peer::Ip),
        ("http://[fd00::1]:80/x", Peer::Ip),
        ("/relative", Peer::Unknown),
    ] {
        assert_eq!(of(SpanAttributes { url, ..SpanAttributes::default() }), expected, "{url}");
    }
    assert!(!is_service_name("unknown_service:python") && !is_service_name("10.1.1.1") && is_service_name("pay"));
}

#[test]
fn interfaces_are_routes_and_methods() {
    let http = SpanAttributes { http_method: "POST", http_route: "/pay/{id}", ..SpanAttributes::default() };
    assert_eq!(id(&interface("shop", "pay", &http)), "interface:shop/pay/POST %2Fpay%2F{id}");
    let rpc = SpanAttributes { rpc_service: "shop.Pay", rpc_method: "Charge", ..SpanAttributes::default() };
    assert_eq!(id(&interface("", "pay", &rpc)), "interface:pay/shop.Pay%2FCharge");
    assert_eq!(interface("", "pay", &SpanAttributes { http_method: "GET", ..SpanAttributes::default() }), None);
}
