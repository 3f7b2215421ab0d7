"""KmsKey: a master key that only Amazon's Key Management Service, or a server that speaks as it does, can use."""

from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from lfsfs.errors import InvalidConfig, Unavailable
from lfsfs.tiers.encryption.masters import Refused

_CONTEXT = {"lfsfs": "ring"}
_NOT_THIS_KEY = ("InvalidCiphertextException", "IncorrectKeyException")


class KmsKey:
    """`key`: its id, ARN or alias, as KMS takes it. Credentials, region and endpoint (AWS_ENDPOINT_URL_KMS) as boto3
    finds them.
    """

    def __init__(self, key: str) -> None:
        if not key:
            raise InvalidConfig("a master key of a KMS needs its id: kms:KEY")
        self.name = f"kms:{key}"
        self._key = key

    def wrap(self, key: bytes) -> bytes:
        try:
            return self._ask("encrypt", "CiphertextBlob", Plaintext=key)
        except Refused as refused:
            raise Unavailable(f"the master key {self.name} cannot be used: {refused}") from refused

    def unwrap(self, wrapped: bytes) -> bytes:
        return self._ask("decrypt", "Plaintext", CiphertextBlob=wrapped)

    def _ask(self, what: str, answer: str, **given: bytes) -> bytes:
        try:
            client: Any = boto3.session.Session().client("kms")
            try:
                call = getattr(client, what)
                return bytes(call(KeyId=self._key, EncryptionContext=_CONTEXT, **given)[answer])
            finally:
                client.close()
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _NOT_THIS_KEY:
                raise Refused(str(error)) from error
            raise InvalidConfig(f"the master key {self.name} cannot be used: {error}") from error
        except (BotoCoreError, ValueError) as error:
            raise Unavailable(f"the master key {self.name} cannot be asked: {error}") from error
