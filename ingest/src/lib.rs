//! Writes in: remote write and OTLP over HTTP, limits, the write-ahead log, the head, and the blocks cut from it.
