"""What of an address may be seen."""

from __future__ import annotations

import dataclasses

import pytest

from openslip import toml
from openslip.addresses import shown, without_keys
from openslip.config import Config, DataConfig
from openslip.errors import DataError

SEEN = {
    "https://me:s3cr3t@host/a.tar?sv=1&sig=s3cr3t": "https://host/a.tar",
    "https://s3cr3t@host/a.tar#s3cr3t": "https://host/a.tar",
    "https://me:p@s3cr3t@host:80/a.tar": "https://host:80/a.tar",
    "https://host/{000..9}.tar?X-Amz-Signature=s3cr3t": "https://host/{000..9}.tar",
    "https://host/my set/a.tar?s3cr3t": "https://host/my set/a.tar",
    "https://host/get?file=a.tar&sig=s3cr3t": "https://host/get?file=a.tar",
    "https://host/get?id=s3cr3t": "https://host/get",
    "s3://key:s3cr3t@bucket/a.tar?versionId=s3cr3t": "s3://bucket/a.tar",
    "simplecache::https://me:s3cr3t@host/a.tar?sig=s3cr3t": "simplecache::https://host/a.tar",
    "zip://a.tar::https://host/z.zip?sig=s3cr3t": "zip://a.tar::https://host/z.zip",
    "0.5 * https://host/my set/a.tar?sig=s3cr3t + b.csv": "0.5 * https://host/my set/a.tar + b.csv",
}


@pytest.mark.parametrize("address", SEEN)
def test_keys_are_not_shown(address):
    assert shown(address) == SEEN[address]
    assert shown(shown(address)) == shown(address)
    if "my set/a.tar?s3cr3t" not in address:  # in a text, nobody knows where an address with spaces ends
        assert without_keys(f"No {address} here") == f"No {SEEN[address]} here"


@pytest.mark.parametrize(
    "path",
    [
        *("a?b=c.csv", "/a/b#c.csv", "C:\\a.tar", "scenes:val:10", "hf:owner/name[:10%]", "me@host/a.tar"),
        *("s3://bucket/a?.tar", "abfs://container@account.net/a.tar", "hf://datasets/o/n@refs/a.parquet"),
    ],
)
def test_all_else_is_shown_as_it_is(path):
    assert shown(path) == without_keys(path) == path


def test_errors_show_no_keys():
    url = "https://host/a.tar?sig=s3cr3t"
    error = DataError(f"{url} is away", got=url, cause=f"403, url=URL('{url}')", fix=f"Mend {url}")
    assert str(error) == (
        "https://host/a.tar is away. Got: 'https://host/a.tar'. 403, url=URL('https://host/a.tar'). "
        "Mend https://host/a.tar."
    )
    assert "s3cr3t" not in str(error.__dict__)


def test_configurations_that_are_handed_on():
    config = Config(data=DataConfig(train="https://host/a.tar?sig=s3cr3t"))
    shared = toml.shareable(config)
    assert shared["data"]["train"] == "https://host/a.tar"
    plain = toml.shareable(dataclasses.replace(config, data=DataConfig(train="a.tar")))
    assert plain == toml.to_dict(Config(data=DataConfig(train="a.tar")))
