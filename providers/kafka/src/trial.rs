//! Trying a connection: ask the brokers for their metadata and for the topics.
//!
//! By a consumer without a group, whose questions create no topic: nothing is
//! joined, read or committed, and no group is there afterwards. Whether the
//! group may be joined is not known before it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_kit::{Direction, Link, LinkNames};
use millrace_provider::trial::Failed;
use millrace_settings::kafka::{Access, SinkSettings, SourceSettings};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::client;
use crate::context::{Context, Notes, Trouble};

/// How long one question may take before what went wrong is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Most events of the library taken after each question.
const EVENTS: usize = 16;

/// The setting of a broker that makes topics at the first message.
const AUTO_CREATE: &str = "auto.create.topics.enable";

/// Tries a source's cluster, and whether its topics are there.
pub(crate) async fn source(settings: SourceSettings, link: LinkNames) -> Result<String, Failed> {
    let access = settings.access();
    let token = settings.token_file.clone();
    let mut asked = Asked::new(&access, token, link, Direction::Source).await?;
    if settings.topics.has_pattern() {
        let brokers = asked.brokers().await?;
        return Ok(format!(
            "{}; which topics fit the pattern is seen when it runs",
            shown(brokers)
        ));
    }
    let mut partitions = 0;
    for topic in settings.topics.iter() {
        let Some(found) = asked.partitions(topic).await? else {
            let mend = "create it, or mend `topics`";
            return Err(Failed::new(format!("there is no topic {topic}"), mend));
        };
        if let Some(missing) =
            settings.partitions.iter().flat_map(|p| p.iter()).find(|p| *p >= found)
        {
            let error = format!("topic {topic} has {found} partitions, and no {missing}");
            return Err(Failed::new(error, "mend `partitions`"));
        }
        partitions += found;
    }
    let topics = settings.topics.iter().count();
    let of = if topics == 1 {
        "the topic is there".to_owned()
    } else {
        format!("all {topics} topics are there")
    };
    Ok(format!("{}; {of}, {partitions} partitions", shown(asked.brokers().await?)))
}

/// Tries a sink's cluster, and its topic where the settings name one.
pub(crate) async fn sink(settings: SinkSettings, link: LinkNames) -> Result<String, Failed> {
    let access = settings.access();
    let token = settings.token_file.clone();
    let mut asked = Asked::new(&access, token, link, Direction::Sink).await?;
    let brokers = shown(asked.brokers().await?);
    let Some(topic) = settings.topic.literal() else {
        return Ok(format!("{brokers}; the topic depends on the message"));
    };
    if let Some(partitions) = asked.partitions(topic).await? {
        return Ok(format!("{brokers}; the topic is there, {partitions} partitions"));
    }
    match asked.creates_topics().await {
        Some(true) => Ok(format!(
            "{brokers}; there is no topic {topic} yet, the broker creates it at the first message"
        )),
        Some(false) => Err(Failed::new(
            format!("there is no topic {topic}, and the broker creates none ({AUTO_CREATE})"),
            "create it, or mend `topic`",
        )),
        None => Ok(format!(
            "{brokers}; there is no topic {topic} yet, and the broker does not tell whether it creates it at the first \
             message ({AUTO_CREATE})"
        )),
    }
}

fn shown(brokers: usize) -> String {
    if brokers == 1 {
        "1 broker answers".to_owned()
    } else {
        format!("the cluster of {brokers} brokers answers")
    }
}

/// A client for questions.
struct Asked {
    config: ClientConfig,
    context: Context,
    consumer: Arc<BaseConsumer<Context>>,
    brokers: Option<usize>,
    broker: i32,
    /// What settings name who we are, for mends.
    has_user: bool,
}

impl Asked {
    async fn new(
        access: &Access,
        token_file: Option<String>,
        names: LinkNames,
        direction: Direction,
    ) -> Result<Self, Failed> {
        let id = format!("millrace-try-{}", std::process::id());
        let mut config = client::config(access, &id)
            .await
            .map_err(|error| Failed::new(error, "mend the file or the setting that names it"))?;
        config.set("client.id", id).set("allow.auto.create.topics", "false");
        let link = Arc::new(Link::new(names, direction));
        let context = Context(Notes::new(link, token_file.map(PathBuf::from)));
        let consumer: BaseConsumer<Context> = config
            .create_with_context(context.clone())
            .map_err(|error| Failed::new(error.to_string(), "mend the settings that it names"))?;
        let has_user = access.sasl.is_some();
        Ok(Self {
            config,
            context,
            consumer: Arc::new(consumer),
            brokers: None,
            broker: 0,
            has_user,
        })
    }

    /// Asks until there is an answer, or the library has told why there is none.
    async fn metadata(
        &mut self,
        topic: Option<&str>,
    ) -> Result<Option<(Option<Code>, i32)>, Failed> {
        loop {
            let (consumer, topic) = (Arc::clone(&self.consumer), topic.map(str::to_owned));
            let asked = tokio::task::spawn_blocking(move || {
                let answer = consumer.fetch_metadata(topic.as_deref(), LOOK);
                // Lets the library tell what it knows: one event, or none, at each poll.
                for _ in 0..EVENTS {
                    let _ = consumer.poll(Duration::ZERO);
                }
                answer.map(|found| {
                    let topic = found.topics().first().filter(|_| topic.is_some());
                    let one = topic.map(|t| {
                        let error = t.error().map(Code::from);
                        (error, i32::try_from(t.partitions().len()).unwrap_or(i32::MAX))
                    });
                    (found.brokers().len(), found.brokers().first().map_or(0, |b| b.id()), one)
                })
            });
            let Ok(answer) = asked.await else {
                return Err(Failed::new("the question was given up", "try again"));
            };
            if let Ok((brokers, broker, one)) = answer {
                self.brokers = Some(brokers);
                self.broker = broker;
                return Ok(one);
            }
            while let Some(trouble) = self.context.0.next_trouble() {
                if let Some(failed) = self.hopeless(trouble) {
                    return Err(failed);
                }
            }
        }
    }

    fn hopeless(&self, trouble: Trouble) -> Option<Failed> {
        match trouble {
            Trouble::Refused(error)
                if error.to_lowercase().contains("authentication") && self.has_user =>
            {
                let mend = "mend `sasl`, `username` and what is in `password-file` (or `token-file`), or let the user in \
                            at the brokers";
                Some(Failed::new(error, mend))
            }
            Trouble::Refused(error) | Trouble::Down(error) | Trouble::Fatal(error) => {
                Some(Failed::to_reach(error, "brokers"))
            }
            Trouble::Standing(_) | Trouble::Notice(_) => None,
        }
    }

    async fn brokers(&mut self) -> Result<usize, Failed> {
        if self.brokers.is_none() {
            self.metadata(None).await?;
        }
        Ok(self.brokers.unwrap_or_default())
    }

    /// How many partitions a topic has; none when it is not there.
    async fn partitions(&mut self, topic: &str) -> Result<Option<i32>, Failed> {
        match self.metadata(Some(topic)).await? {
            Some((None | Some(Code::LeaderNotAvailable), found)) => Ok(Some(found)),
            Some((Some(Code::UnknownTopicOrPartition | Code::UnknownTopic), _)) | None => Ok(None),
            Some((Some(Code::TopicAuthorizationFailed), _)) => Err(Failed::new(
                format!("this user may not see topic {topic}"),
                "let it describe the topic at the brokers, or mend `username`",
            )),
            Some((Some(code), _)) => Err(Failed::new(
                format!("topic {topic}: {code}"),
                "look at the topic at the brokers",
            )),
        }
    }

    /// Whether a message makes a topic that is not there; none where the broker
    /// does not tell.
    async fn creates_topics(&self) -> Option<bool> {
        let admin: AdminClient<Context> =
            self.config.create_with_context(self.context.clone()).ok()?;
        let broker = [ResourceSpecifier::Broker(self.broker)];
        let limit = AdminOptions::new().request_timeout(Some(Duration::from_secs(2)));
        let found = admin.describe_configs(&broker, &limit).await.ok()?;
        let config = found.into_iter().next()?.ok()?;
        config.get(AUTO_CREATE)?.value.as_deref()?.parse().ok()
    }
}
