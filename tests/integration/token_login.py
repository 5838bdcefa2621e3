"""A tracking server's login that takes a bearer token, as one behind a gateway does, or a user's name and password."""

from flask import Response, request
from mlflow.server.auth import authenticate_request_basic_auth, make_basic_auth_response
from werkzeug.datastructures import Authorization

from tests.integration.servers import TOKEN, USER


def login() -> Authorization | Response:
    """Who asks, or the answer that refuses."""
    sent = request.authorization
    if sent is None or sent.type != "bearer":
        return authenticate_request_basic_auth()
    return Authorization("basic", {"username": USER}) if sent.token == TOKEN else make_basic_auth_response()
