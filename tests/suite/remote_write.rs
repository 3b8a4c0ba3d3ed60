//! Remote write through the real server: what is large or hostile. The status and header cases of both protocol versions are
//! tested beside the handler.

use isobar_tests::isobar::Isobar;
use isobar_tests::wire;

/// The most that a hostile request may add to the resident memory.
const MEMORY_SLACK_BYTES: u64 = 160 << 20;

fn peak_memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("process is there");
    let line = status.lines().find(|l| l.starts_with("VmHWM")).expect("VmHWM");
    line.split_whitespace().nth(1).expect("kB").parse::<u64>().expect("number") * 1024
}

async fn post(isobar: &Isobar, body: Vec<u8>) -> Option<u16> {
    let request = isobar
        .client()
        .post(isobar.url("/api/v1/write"))
        .header("Content-Type", "application/x-protobuf")
        .header("Content-Encoding", "snappy");
    // The server may close the connection before it has read everything; that is a refusal too.
    request.body(body).send().await.ok().map(|a| a.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_hostile_bodies_are_refused_within_bounds() {
    let isobar = Isobar::start(&[]).await;
    isobar.write(vec![wire::series(&[("__name__", "before")], &[(1000, 1.0)])]).await;
    let before = peak_memory_bytes(isobar.pid());

    let refused = post(&isobar, vec![0x55; 100 << 20]).await;
    assert!(matches!(refused, Some(413) | None), "100 MiB answered {refused:?}");
    // A snappy block that claims to become 4 GiB.
    assert!(matches!(post(&isobar, vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, 0x41]).await, Some(400 | 413)), "snappy bomb");
    // 16 MiB of zeros compress to almost nothing, and to an invalid message.
    let zeros = snap::raw::Encoder::new().compress_vec(&vec![0; 16 << 20]).expect("fits");
    assert_eq!(post(&isobar, zeros).await, Some(400), "zeros");
    let valid =
        wire::body(&wire::WriteRequest { timeseries: vec![wire::series(&[("__name__", "m")], &[(2000, 1.0)])], metadata: Vec::new() });
    for cut in 0..valid.len() {
        let status = post(&isobar, valid[..cut].to_vec()).await;
        assert!(matches!(status, Some(204 | 400)), "cut at {cut}: {status:?}");
    }

    let grown = peak_memory_bytes(isobar.pid()) - before;
    assert!(grown < MEMORY_SLACK_BYTES, "memory grew by {} MiB", grown >> 20);
    let result = isobar.query("before", 2.0).await;
    assert_eq!(result[0]["value"][1], "1", "the server still answers: {result}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_labels_survive_the_round_trip() {
    let isobar = Isobar::start(&["--web.enable-admin-api"]).await;
    let values = ["<script>alert(1)</script>", "a\"b\\c\nd", "\u{0}\u{1}", "äöü 日本 🦀", "' or 1=1 --", "../../etc/passwd", "{}[]()|^$"];
    let series = values.iter().map(|v| wire::series(&[("__name__", "hostile"), ("evil", v)], &[(1000, 1.0)])).collect();
    isobar.write(series).await;
    for source in ["head", "block"] {
        let mut found: Vec<String> = isobar
            .get("/api/v1/label/evil/values", &[])
            .await
            .as_array()
            .expect("values")
            .iter()
            .map(|v| v.as_str().expect("text").to_owned())
            .collect();
        found.sort();
        let mut expected: Vec<&str> = values.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{source}");
        for value in values {
            let query = format!("hostile{{evil={value:?}}}").replace("\\0", "\\x00").replace("\\u{1}", "\\x01");
            let result = isobar.query(&query, 2.0).await;
            assert_eq!(result[0]["metric"]["evil"], value, "{source} {query}");
        }
        assert_eq!(isobar.flush().await / 100, 2, "flush");
    }
}
