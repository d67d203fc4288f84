# The service and nothing else. Any official slim tag of Python 3.11 to 3.14 will do, on x86-64 and arm64.
# The digest is the index of all architectures; a newer one: docker buildx imagetools inspect python:3.11-slim-bookworm
ARG PYTHON_TAG=3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM python:${PYTHON_TAG} AS build
# service-otel: with OpenTelemetry.
ARG REQUIREMENTS=service
COPY requirements/${REQUIREMENTS}.txt /build/requirements.txt
RUN python3 -m venv --without-pip /opt/service \
 && python3 -m pip --python /opt/service/bin/python install --quiet --no-cache-dir --disable-pip-version-check \
      --only-binary :all: --no-binary nkeys --require-hashes --no-deps --no-compile -r /build/requirements.txt
# Of botocore the service uses the credential chain and two services: the models of the other 400 are most of its size.
RUN cd /opt/service/lib/python3*/site-packages/botocore/data \
 && find . -mindepth 1 -maxdepth 1 -type d ! -name dynamodb ! -name sqs ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} + \
 && find /opt/service -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' -o -name '*.pyi' \) -delete
COPY service /opt/service/app/service
RUN /opt/service/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/service

FROM python:${PYTHON_TAG}
# No installer in what runs.
RUN find /usr/lib/python3* /usr/local/lib/python3* -type d \
      \( -name ensurepip -o -name pip -o -name 'pip-*' -o -name setuptools -o -name 'setuptools-*' \
         -o -name wheel -o -name 'wheel-*' -o -name pkg_resources \) -prune -exec rm -rf {} + 2>/dev/null; \
    rm -f /usr/bin/pip* /usr/local/bin/pip* /usr/local/bin/wheel
COPY --from=build /opt/service /opt/service
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="customer-balance" \
      org.opencontainers.image.description="Answers customer.balance over NATS from DynamoDB" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/service/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/service/app
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "service.healthcheck"]
ENTRYPOINT ["python", "-m", "service"]
