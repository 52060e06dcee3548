"""Connections to Redis, as whoever asks it many things at once wants them. Needs the extra `redis`.

Nothing imports this before the settings name a Redis.
"""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from fledge.errors import SettingsError


def client_of(url: str, *, name: str, give_up_s: float) -> Redis:
    """A client that connects when it is first used, and says nothing twice.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        name: by which Redis knows its connections.
        give_up_s: seconds that connecting, or one answer, may take.

    Raises:
        SettingsError: the URL is none of Redis.
    """
    try:
        return Redis.from_url(
            url,
            protocol=2,  # one round trip less to connect, and older servers speak it too
            retry=Retry(NoBackoff(), 0),  # what is said twice is charged twice
            socket_timeout=give_up_s,
            socket_connect_timeout=give_up_s,
            client_name=name,
        )
    except (ValueError, TypeError, RedisError):
        # Its words are left out: the URL may have a password.
        raise SettingsError(
            "redis_url must be redis://HOST:PORT/NUMBER, rediss:// or unix://PATH"
        ) from None
