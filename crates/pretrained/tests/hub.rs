//! Published models, from a server on this machine.
#![cfg(feature = "hub")]

use pretrained::{Download, model_folder, model_folder_with, read_tensors, write_safetensors};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

type Files = BTreeMap<&'static str, Vec<u8>>;

/// Serves published folders by their names, and counts the requests.
struct Server {
    address: String,
    requests: Arc<AtomicUsize>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(models: BTreeMap<&'static str, Files>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (requests, log) = (
            Arc::<AtomicUsize>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let (count, lines) = (requests.clone(), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                answer(stream, &models, &lines);
            }
        });
        Self {
            address,
            requests,
            log,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: TcpStream, models: &BTreeMap<&'static str, Files>, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    reader.read_line(&mut request).unwrap();
    let (mut range, mut line) = (None, String::new());
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            range = Some(value.trim().to_owned());
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    log.lock().unwrap().push(path.clone());
    let reply = models.iter().find_map(|(name, files)| {
        if path == format!("/api/models/{name}/revision/main") {
            let list: Vec<String> = files.keys().map(|f| format!(r#"{{"rfilename":"{f}"}}"#)).collect();
            let body = format!(r#"{{"sha":"c0ffee","siblings":[{}]}}"#, list.join(","));
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n".to_owned();
            return Some((head, body.into_bytes()));
        }
        let file = path.strip_prefix(&format!("/{name}/resolve/main/"))?;
        let content = files.get(file)?;
        let range = range.as_deref().and_then(|r| r.strip_prefix("bytes="))?;
        let (from, to) = range.split_once('-')?;
        let from: usize = from.parse().ok()?;
        let last = content.len().saturating_sub(1);
        let to = to.parse().unwrap_or(last).min(last);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{to}/{}\r\nETag: \"{name}-{file}\"\r\nX-Repo-Commit: c0ffee\r\n",
            content.len()
        )
        .replace(&format!("{name}-{file}"), &format!("{}-{}", name, file).replace('/', "-"));
        Some((head, content[from..=to].to_vec()))
    });
    let (head, body) = reply.unwrap_or_else(|| ("HTTP/1.1 404 Not Found\r\n".into(), vec![]));
    let head = format!(
        "{head}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
}

fn weights(dir: &Path, names: &[&str]) -> Vec<u8> {
    let file = dir.join("made.safetensors");
    let tensor = || burn::tensor::TensorData::new(vec![1.0f32; 600], [20, 30]);
    let all = names.iter().map(|n| ((*n).to_owned(), tensor())).collect();
    write_safetensors(&file, &all).unwrap();
    std::fs::read(file).unwrap()
}

fn set(name: &str, value: Option<&str>) {
    // SAFETY: this is the only test of this process, and its server's thread reads no variables.
    unsafe {
        match value {
            Some(value) => std::env::set_var(name, value),
            None => std::env::remove_var(name),
        }
    }
}

#[test]
fn a_published_model_is_downloaded_once_and_then_found_without_the_network() {
    let dir = tempfile::tempdir().unwrap();
    let config = br#"{ "model_type": "bert" }"#.to_vec();
    let index = br#"{ "weight_map": { "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors" } }"#;
    let models = BTreeMap::from([
        (
            "org/whole",
            Files::from([
                ("config.json", config.clone()),
                ("model.safetensors", weights(dir.path(), &["a", "b"])),
                (
                    "pytorch_model.bin",
                    b"not fetched where safetensors are".to_vec(),
                ),
                ("vocab.txt", b"[PAD]\n".to_vec()),
                ("1_Pooling/config.json", b"{}".to_vec()),
                ("README.md", b"not fetched".to_vec()),
            ]),
        ),
        (
            "org/shards",
            Files::from([
                ("config.json", config.clone()),
                ("model.safetensors.index.json", index.to_vec()),
                (
                    "model-00001-of-00002.safetensors",
                    weights(dir.path(), &["a"]),
                ),
                (
                    "model-00002-of-00002.safetensors",
                    weights(dir.path(), &["b"]),
                ),
            ]),
        ),
        (
            "org/none",
            Files::from([("config.json", config.clone()), ("tf_model.h5", vec![1])]),
        ),
    ]);
    let server = Server::start(models);
    let home = dir.path().join("home");
    set("HF_HOME", home.to_str());
    set("HF_ENDPOINT", Some(&format!("{}/", server.address)));
    set("HF_HUB_OFFLINE", None);

    let mut seen: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let folder = model_folder_with("org/whole".as_ref(), &mut |d: Download<'_>| {
        seen.insert(d.file.to_owned(), (d.done, d.total));
    })
    .unwrap();
    assert!(folder.starts_with(&home), "{}", folder.display());
    assert_eq!(std::fs::read(folder.join("vocab.txt")).unwrap(), b"[PAD]\n");
    assert!(folder.join("1_Pooling/config.json").is_file());
    assert_eq!(read_tensors(&folder).unwrap().len(), 2);
    for (file, (done, total)) in &seen {
        assert!(*total > 0 && done == total, "{file}: {done} of {total}");
    }
    assert!(seen.contains_key("model.safetensors"));
    let log = server.log.lock().unwrap().join(" ");
    assert!(!log.contains("README") && !log.contains(".bin"), "{log}");

    let before = server.requests();
    assert_eq!(model_folder("org/whole".as_ref()).unwrap(), folder);
    assert_eq!(server.requests(), before, "it is here already");

    let shards = model_folder("org/shards".as_ref()).unwrap();
    assert_eq!(read_tensors(&shards).unwrap().len(), 2);

    let error = |name: &str| model_folder(name.as_ref()).unwrap_err().to_string();
    assert!(error("org/none").contains("neither safetensors nor"));
    assert!(error("org/unknown").contains("check the name"));

    set("HF_HUB_OFFLINE", Some("1"));
    let before = server.requests();
    assert_eq!(model_folder("org/whole".as_ref()).unwrap(), folder);
    let message = error("org/other");
    assert!(
        message.contains("HF_HUB_OFFLINE") && message.contains("org/other"),
        "{message}"
    );
    assert_eq!(server.requests(), before, "nothing is asked for");
}
